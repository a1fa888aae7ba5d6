"""Stages on workers: two kinds side by side in checkouts of their own, data through S3, and the same dvc.lock as here."""

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows.graph import load_graph
from flows.pool import Pools
from flows.remote import check_out, entries, wanted
from tasks.runtime.imports import ROOT
from tasks.runtime.params import UserError
from tests.flows.checkout import command, environment, make_checkout
from tests.flows.test_stage import wait_for

STAGES = """\
  left:
    cmd: python -m work --out out/left.json --scores out/left-scores.json --curve out/left.csv
    params: [work]
    deps: [work.py]
    outs: [out/left.json]
    metrics: [{out/left-scores.json: {cache: true}}]
    plots: [{out/left.csv: {x: step, y: loss}}]
    meta: {worker: gpu}
  right:
    cmd: mkdir -p out/right && sleep 1 && cp work.py out/right/copy.py && echo right > out/right/word
    deps: [work.py]
    outs: [out/right]
  both:
    cmd: cat out/right/word > out/both && wc -l < out/left-scores.json >> out/both
    deps: [out/left-scores.json, out/right/word]
    outs: [out/both]
    meta: {worker: gpu}
"""
SERVER = """
import time
from flows.server import start_in_background
server = start_in_background(for_workers=True)
server.wait()
print(server.api_url, flush=True)
time.sleep(1200)
"""
DETERMINED = ("out/left-scores.json", "out/left.csv", "out/right/word", "out/both")
"""Outs that tell nothing of the process that made them."""


class TestWhatIsPulled:
    def test_a_dep_in_an_out_alone(self):
        assert wanted(["out/right/word"], ["out/right", "out/left"]) == ["out/right/word"]

    def test_the_outs_in_a_dep(self):
        assert wanted(["cells"], ["cells/a", "cells/b", "cell"]) == ["cells/a", "cells/b"]

    def test_nothing_for_code(self):
        assert wanted(["work.py"], ["out"]) == []


class TestACommitOnAWorker:
    def test_it_is_fetched_from_the_origin_and_has_a_folder_of_its_own(self, tmp_path):
        origin = make_checkout(tmp_path / "origin")
        command(tmp_path, "git", "clone", "-q", str(origin), "worker")
        (origin / "later").write_text("later\n")
        command(origin, "git", "add", "later")
        command(origin, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "later")
        commit = command(origin, "git", "rev-parse", "HEAD").strip()
        folder = check_out(tmp_path / "worker", commit, "work", {"work": {}})
        assert (folder / "later").read_text() == "later\n"
        assert check_out(tmp_path / "worker", commit, "work", {"work": {}}) == folder
        assert check_out(tmp_path / "worker", commit, "work", {"work": {"steps": 2}}) != folder

    def test_one_that_nobody_has_is_named(self, tmp_path):
        with pytest.raises(RuntimeError, match=f"no commit {'0' * 39}1, nor has its origin; push it"):
            check_out(make_checkout(tmp_path / "c"), "0" * 39 + "1", "work", {})


class TestWhatACoordinatorNeeds:
    def test_changes_without_a_commit_are_refused(self, tmp_path):
        root = make_checkout(tmp_path / "c")
        (root / "work.py").write_text("changed")
        with pytest.raises(UserError, match="workers check out a commit"):
            Pools(root, load_graph(root, {"work": {}}), {})

    def test_so_is_a_checkout_without_a_remote(self, tmp_path):
        root = make_checkout(tmp_path / "c")
        with pytest.raises(UserError, match="dvc remote add -d"):
            Pools(root, load_graph(root, {"work": {}}), {})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A coordinator, its server, two workers in clones of their own, and an S3 server: all real, all on this machine."""
    place = tmp_path_factory.mktemp("site")
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    host, port = storage.get_host_and_port()
    aws = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=aws["AWS_ENDPOINT_URL"], **keys).create_bucket(Bucket="data")
    root = make_checkout(place / "coordinator", STAGES)
    command(root, "dvc", "remote", "add", "--local", "-d", "store", "s3://data/temper")
    variables = environment(PYTHONPATH=str(ROOT), **aws)
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=root, env=variables, stdout=subprocess.PIPE, text=True)
    variables["PREFECT_API_URL"] = server.stdout.readline().strip()
    assert variables["PREFECT_API_URL"], "the server did not come up"
    workers = []
    for kind in ("cpu", "gpu"):
        command(place, "git", "clone", "-q", str(root), kind)
        log = (place / f"{kind}.log").open("wb")
        words = [sys.executable, "-m", "flows.cli", "worker", kind, "--cold"]
        workers.append(subprocess.Popen(words, cwd=place / kind, env=variables, stdout=log, stderr=log))
    yield place, variables
    for process in (*workers, server):
        process.terminate()
    for process in (*workers, server):
        process.wait(timeout=60)
    storage.stop()


def run(place: Path, variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "flows.cli", "run", *words]
    return subprocess.run(line, cwd=place, env=variables, capture_output=True, text=True, timeout=600)


def hashes(root: Path) -> dict[str, str]:
    return {
        out["path"]: out["md5"]
        for entry in entries(root, "dvc.yaml").values()
        for out in entry["outs"]
        if out["path"].startswith(DETERMINED)
    }


@pytest.mark.slow
class TestAPipelineOnWorkers:
    def test_outs_and_lock_are_those_of_a_run_here(self, site):
        place, variables = site
        root = place / "coordinator"
        done = run(root, variables, "--workers", "pool")
        logs = "".join((place / f"{kind}.log").read_text()[-2000:] for kind in ("cpu", "gpu"))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs
        command(place, "git", "clone", "-q", str(root), "alone")
        command(place / "alone", "dvc", "repro")
        assert set(entries(root, "dvc.yaml")) == {"left", "right", "both"}
        assert hashes(root) == hashes(place / "alone")
        assert (root / "out/both").read_text() == (place / "alone/out/both").read_text()

    def test_nothing_is_left_to_do_here(self, site):
        place, variables = site
        done = run(place / "coordinator", variables)
        assert "server" not in done.stderr
        assert done.returncode == 0
        assert command(place / "coordinator", "dvc", "status").strip() == "Data and pipelines are up to date."

    def test_each_kind_ran_on_its_own_worker_which_keeps_nothing_but_its_cache(self, site):
        place, _ = site
        assert {kind: sorted(os.listdir(place / kind / ".temper/at")) for kind in ("cpu", "gpu")} == {"cpu": [], "gpu": []}
        assert "left" in (place / "gpu.log").read_text()
        assert "left" not in (place / "cpu.log").read_text()
        assert not (place / "cpu/out").exists()

    def test_a_failure_on_a_worker_is_told_here(self, site):
        place, variables = site
        done = run(place / "coordinator", variables, "left", "--workers", "pool", "--set", "work.how=refuse")
        assert done.returncode == 1
        assert "work.how: refused; choose another" in done.stdout + done.stderr

    def test_a_worker_that_is_killed_in_the_middle_costs_the_attempt_not_the_run(self, site):
        place, variables = site
        at = place / "gpu/.temper/at"
        before = set(os.listdir(at)) if at.exists() else set()
        done = run(place / "coordinator", variables, "left", "--workers", "pool", "--set", "work.how=killed")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "killed by signal 9" in done.stdout + done.stderr
        wait_for(lambda: set(os.listdir(at)) == before)
