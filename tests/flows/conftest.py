"""Small checkouts whose stages are shell commands: DVC is real, the work takes milliseconds."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from moto.server import ThreadedMotoServer

PIPELINE = """
stages:
  words:
    cmd: mkdir -p data/words && cp src/a.txt src/b.txt data/words/ && echo words >> ran.log
    deps: [src]
    outs: [data/words]
  count:
    cmd: head -n ${count.lines} data/words/a.txt > data/count.txt && echo count >> ran.log
    params: [count]
    deps: [data/words/a.txt]
    outs: [data/count.txt]
  noise:
    cmd: cat src/b.txt > noise.txt && echo noise >> ran.log
    deps: [src/b.txt]
    outs: [noise.txt]
    always_changed: true
  after:
    cmd: cat noise.txt > after.txt && echo after >> ran.log
    deps: [noise.txt]
    outs: [after.txt]
  each:
    foreach: ${items}
    do:
      cmd: cat data/words/b.txt > each-${item}.txt && echo each@${item} >> ran.log
      params: [each.scale]
      deps: [data/words]
      outs: ["each-${item}.txt"]
  gather:
    cmd: cat data/words/a.txt data/count.txt > gather.txt && echo gather >> ran.log
    deps: [data, each-one.txt]
    metrics: [{gather.txt: {cache: true}}]
"""
PARAMS = """\
# How many lines are kept.
count:
  lines: 1      # of a.txt

each: {scale: 1.0}
items: [one, two]
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """An S3 server on a loopback port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Make a git and DVC checkout at a place, from the text of its dvc.yaml and params.yaml."""

    def _build(place: Path, pipeline: str = PIPELINE, params: str = PARAMS) -> Path:
        (place / "src").mkdir(parents=True)
        (place / "src/a.txt").write_text("one\ntwo\nthree\n")
        (place / "src/b.txt").write_text("four\n")
        (place / "dvc.yaml").write_text(pipeline)
        (place / "params.yaml").write_text(params)
        subprocess.run(["git", "init", "-q", str(place)], check=True)
        with Repo.init(str(place)) as repo:
            repo.config["core"]["autostage"] = False
        return place

    return _build


@pytest.fixture(scope="session")
def finished(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which everything has run once; copy it before changing anything."""
    root = build(tmp_path_factory.mktemp("finished") / "checkout")
    with chdir(root), Repo() as repo:
        repo.reproduce()
    return root
