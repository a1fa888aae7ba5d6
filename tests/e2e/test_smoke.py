"""The whole pipeline at its smallest size: it ends at its report, `dvc repro` gives the same bits, a second run does nothing."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.e2e.conftest import copy_project, start

pytestmark = pytest.mark.slow

STAGES = ["corpus", "tokenizer", "pretrain", "sft", "preferences", "reward", "raft", "average", "evaluate", "claims", "report"]


def outs(checkout: Path) -> dict[str, str]:
    """Return the hash of every out that dvc.lock records."""
    lock = YAML(typ="safe").load((checkout / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def test_it_runs_every_stage_and_ends_at_the_report(smoke_run):
    _, done = smoke_run
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert all(re.search(rf"\b{stage}\b", said) for stage in STAGES)
    assert "data/report/index.html" in said
    assert re.search(r"http://(127\.0\.0\.1|localhost):\d+", said), "the address of the Prefect UI"


def test_the_report_is_one_page_that_loads_nothing(smoke_run):
    page = (smoke_run[0] / "data/report/index.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "<svg" in page


def test_dvc_repro_gives_the_same_bits(smoke_run, tmp_path):
    plain = copy_project(tmp_path / "plain")
    assert start(plain, "flows.cli", "profile", "use", "smoke").returncode == 0
    done = start(plain, "dvc", "repro", timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert outs(plain) == outs(smoke_run[0])


def test_a_second_run_finds_nothing_to_do(smoke_run):
    started = time.monotonic()
    done = start(smoke_run[0], "flows.cli", "run", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert "http://" not in done.stdout + done.stderr, "no server was started"
    assert time.monotonic() - started < 30


def test_params_are_put_back_after_a_profile_run(smoke_run):
    tracked = subprocess.run(["git", "diff", "--stat", "params.yaml"], cwd=smoke_run[0], capture_output=True, text=True)
    assert tracked.stdout == ""


def test_a_changed_param_makes_stale_what_depends_on_it_and_says_why(smoke_run):
    done = start(smoke_run[0], "flows.cli", "plan", "--profile", "smoke", "--set", "claims.confidence=0.9", "--json")
    assert done.returncode == 0, done.stderr
    plan = {step["stage"]: step for step in json.loads(done.stdout)["stages"]}
    assert {name for name, step in plan.items() if step["stale"]} == {"claims", "report"}
    assert any("claims.confidence" in reason for reason in plan["claims"]["reasons"])
