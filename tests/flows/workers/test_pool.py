"""Stages on workers: two kinds side by side in checkouts of their own, data through S3, and the same dvc.lock as here."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.planning.graph import load_graph
from flows.planning.recorded import entries
from flows.workers.pool import Pools
from flows.workers.remote import check_out, wanted
from tasks.runtime.params import UserError
from tests.flows.checkout import command, make_checkout
from tests.flows.site import Site
from tests.flows.test_stage import wait_for

STAGES = """\
  left:
    cmd: if [ "$MEETING" ]; then touch $MEETING/left; until [ -e $MEETING/right ]; do sleep 0.1; done; fi;
      python -m work --out out/left.json --scores out/left-scores.json --curve out/left.csv
    params: [work]
    deps: [work.py]
    outs: [out/left.json]
    metrics: [{out/left-scores.json: {cache: true}}]
    plots: [{out/left.csv: {x: step, y: loss}}]
    meta: {worker: gpu}
  right:
    cmd: if [ "$MEETING" ]; then touch $MEETING/right; until [ -e $MEETING/left ]; do sleep 0.1; done; fi;
      mkdir -p out/right && cp work.py out/right/copy.py && echo right > out/right/word
    deps: [work.py]
    outs: [out/right]
  both:
    cmd: echo "sees $CUDA_VISIBLE_DEVICES" && cat out/right/word > out/both && wc -l < out/left-scores.json >> out/both
    deps: [out/left-scores.json, out/right/word]
    outs: [out/both]
    meta: {worker: gpu}
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
    """A coordinator, its server, a worker of each kind in a clone of its own, and an S3 server."""
    place = tmp_path_factory.mktemp("site")
    site = Site(place, STAGES)
    (place / "meeting").mkdir()
    for kind in ("cpu", "gpu"):
        site.worker(kind, kind, MEETING=str(place / "meeting"), CUDA_VISIBLE_DEVICES="GPU-of-a-site")
    yield site
    site.close()


def run(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "flows.cli", "run", *words]
    return subprocess.run(line, cwd=site.root, env=site.variables, capture_output=True, text=True, timeout=600)


def hashes(root: Path) -> dict[str, str]:
    return {
        out["path"]: out["md5"]
        for entry in entries(root, "dvc.yaml").values()
        for out in entry["outs"]
        if out["path"].startswith(DETERMINED)
    }


@pytest.mark.slow
class TestAPipelineOnWorkers:
    def test_stages_of_both_kinds_run_side_by_side_and_outs_and_lock_are_those_of_a_run_here(self, site):
        """On workers `left` and `right` wait for each other, so that they end only if both run at once."""
        done = run(site, "--workers", "pool")
        assert done.returncode == 0, (
            done.stdout[-3000:] + done.stderr[-3000:] + site.said("cpu")[-2000:] + site.said("gpu")[-2000:]
        )
        assert {path.name for path in (site.place / "meeting").iterdir()} == {"left", "right"}
        command(site.place, "git", "clone", "-q", str(site.root), "alone")
        command(site.place / "alone", "dvc", "repro")
        assert set(entries(site.root, "dvc.yaml")) == {"left", "right", "both"}
        assert hashes(site.root) == hashes(site.place / "alone")
        assert (site.root / "out/both").read_text() == (site.place / "alone/out/both").read_text()

    def test_nothing_is_left_to_do_here(self, site):
        done = run(site)
        assert "server" not in done.stderr
        assert done.returncode == 0
        assert command(site.root, "dvc", "status").strip() == "Data and pipelines are up to date."

    def test_each_kind_ran_on_its_own_worker_which_keeps_nothing_but_its_cache(self, site):
        assert {kind: site.attempts(kind) for kind in ("cpu", "gpu")} == {"cpu": [], "gpu": []}
        assert "Running stage 'left'" in site.said("gpu")
        assert "Running stage 'left'" not in site.said("cpu")
        assert not (site.place / "cpu/out").exists()

    def test_a_stage_sees_the_gpu_that_it_was_lent(self, site):
        assert "sees GPU-of-a-site" in site.said("gpu")

    def test_a_failure_on_a_worker_is_told_here(self, site):
        done = run(site, "left", "--workers", "pool", "--set", "work.how=refuse")
        assert done.returncode == 1
        assert "work.how: refused; choose another" in done.stdout + done.stderr

    def test_a_stage_that_is_killed_in_the_middle_costs_the_attempt_not_the_run(self, site):
        before = site.attempts("gpu")
        done = run(site, "left", "--workers", "pool", "--set", "work.how=killed")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "killed by signal 9" in done.stdout + done.stderr
        wait_for(lambda: site.attempts("gpu") == before)
