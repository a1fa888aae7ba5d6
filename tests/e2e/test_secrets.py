"""Nothing that a run leaves behind holds a secret: every file, the server's database and all it printed are searched.

The secrets are made at random for the test and handed to a run as users hand them over: by the environment, in an address, and
in a block of a real Prefect server. One stage prints its whole environment and ends well, another fails saying what it was given.
"""

import base64
import os
import secrets
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from prefect.blocks.system import Secret
from prefect.settings import temporary_settings

from flows.server import start_in_background
from tests.flows.checkout import environment, make_checkout

pytestmark = pytest.mark.slow

TELL = '''
"""Says everything it was given, and fails if it is told to."""

import json, os, sys
from pathlib import Path

print(json.dumps(dict(os.environ)))
print("\\n".join(os.environ.values()))
Path(sys.argv[1]).parent.mkdir(exist_ok=True)
Path(sys.argv[1]).write_text('{"score": 0.5}\\n')
if len(sys.argv) > 2:
    key = os.environ["TEMPER_ENDPOINT_KEY"]
    raise RuntimeError(f"401 from {os.environ['AWS_ENDPOINT_URL']} with Authorization: Bearer {key}")
'''
STAGES = """\
  good:
    cmd: python tell.py out/good.json
    deps: [tell.py]
    metrics: [{out/good.json: {cache: true}}]
  bad:
    cmd: python tell.py out/bad.json fail
    deps: [tell.py, out/good.json]
    metrics: [{out/bad.json: {cache: true}}]
"""


@pytest.fixture(scope="module")
def planted() -> dict[str, str]:
    """Secrets by what they are for, none of which exists anywhere else."""
    return {name: secrets.token_hex(20) for name in ("key", "aws", "address", "user", "block")}


@pytest.fixture(scope="module")
def run(planted, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A checkout with a server of its own that keeps a block, after a run in it; and what the run printed."""
    root = make_checkout(tmp_path_factory.mktemp("secrets") / "checkout", STAGES, "{}")
    (root / "tell.py").write_text(TELL)
    given = environment(
        TEMPER_ENDPOINT_KEY=planted["key"],
        AWS_SECRET_ACCESS_KEY=planted["aws"],
        AWS_ENDPOINT_URL=f"http://temper:{planted['address']}@127.0.0.1:9",
        SOME_AUTH_STRING=f"somebody:{planted['user']}",
    )
    before = os.environ.pop("PREFECT_API_URL", None)
    server = start_in_background(root)
    try:
        server.wait()
        with temporary_settings(server.settings()):
            Secret(value=planted["block"]).save("planted", overwrite=True)
            assert Secret.load("planted").get() == planted["block"]
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "run"], cwd=root, env=given, capture_output=True, text=True, timeout=300
        )
    finally:
        server.stop()
        if before is not None:
            os.environ["PREFECT_API_URL"] = before
    return root, done


def forms(secret: str) -> set[bytes]:
    """Return a secret in the forms in which files hold one."""
    basic = base64.b64encode(f"somebody:{secret}".encode())
    return {secret.encode(), quote(secret).encode(), base64.b64encode(secret.encode()), basic}


def test_the_run_was_what_it_should_be(run):
    root, done = run
    assert done.returncode == 1, done.stdout + done.stderr
    log = (root / ".temper/logs/bad.log").read_text()
    assert "401 from http://***@127.0.0.1:9 with Authorization: Bearer ***" in log
    assert (root / "out/good.json").exists()
    assert b"401 from http" in (root / ".temper/prefect/prefect.db").read_bytes(), "the server knows why the stage failed"


@pytest.mark.parametrize("what", ["key", "aws", "address", "user", "block"])
def test_no_file_holds_a_secret(run, planted, what):
    root, _ = run
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"dvc.lock", "server.log", "prefect.db", "good.log"} <= {path.name for path in files}
    found = [str(path) for path in files if any(form in path.read_bytes() for form in forms(planted[what]))]
    assert found == []


def test_nothing_printed_holds_a_secret(run, planted):
    _, done = run
    for secret in planted.values():
        for form in forms(secret):
            assert form.decode() not in done.stdout + done.stderr
