"""Dead at any named point and run again: the same bits, nothing half there, and no point that a test does not know."""

import os
import signal
import subprocess

import pytest

from flows.graph import Stage
from flows.stage import Children, attempt
from tasks.runtime.chaos import FAIL_AT, POINTS, reach
from tasks.runtime.imports import ROOT
from tests.chaos.forked import finish, killed, published
from tests.chaos.soak import make_pipeline
from tests.chaos.trainers import TRAINERS
from tests.flows.checkout import command

POINTS_OF = {
    "lease": ("teacher", "lease"),
    "topk": ("teacher", "topk:20"),
    "publish": ("teacher", "publish@model"),
    "publish.moving": ("teacher", "publish.moving@model"),
    "published": ("teacher", "published@model"),
    "published, scores": ("teacher", "published@scores.json"),
    "done": ("sft", "done"),
    "step": ("sft", "step:3"),
    "checkpoint": ("sft", "checkpoint:3"),
    "checkpoint.unmarked": ("sft", "checkpoint.unmarked:3"),
    "checkpoint.sealed": ("sft", "checkpoint.sealed:3"),
}
ELSEWHERE = {"push"}
"""Points that are not a stage's; tests/flows/test_shelf.py dies there."""


def test_every_point_is_died_at():
    assert {point.split("@")[0].split(":")[0] for _, point in POINTS_OF.values()} == set(POINTS) - ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("case", POINTS_OF)
def test_dead_there_and_run_again_it_publishes_the_same_bits(case, world, whole, tmp_path):
    name, point = POINTS_OF[case]
    trainer, undisturbed = TRAINERS[name], whole(name)
    if point.startswith("publish.moving"):  # an older out stands in the place
        (tmp_path / "out/model").mkdir(parents=True)
        (tmp_path / "out/model/old").write_text("old")
    arguments = trainer.arguments(world, tmp_path)
    killed(trainer.module, arguments, tmp_path, point)
    there = {path.name for path in (tmp_path / "out").glob("[!.]*")} - {"params.yaml"}
    assert there == {"publish.moving": set()}.get(point.split("@")[0], there)
    said = finish(trainer.module, arguments, tmp_path)
    assert published(tmp_path / "out") == published(undisturbed)
    if point.startswith(("step", "checkpoint.sealed", "done")):
        assert "1/12 steps" not in said, "it went on and did not start anew"
    if point == "done":
        assert "sft  1/1 steps" in said, "what a finished stage had sealed is kept until DVC has recorded its outs"


@pytest.mark.slow
@pytest.mark.parametrize("point", ["publish@report", "published@report", "done@digest", "done@sft", "topk"])
def test_under_dvc_the_next_attempt_ends_as_if_nothing_had_been(point, pipeline):
    """Between an out and its place, between the outs and dvc.lock, while the page is written, in the top-k file."""
    root, whole = pipeline
    for name in ("out", "dvc.lock", ".dvc/cache"):
        subprocess.run(["rm", "-rf", name], cwd=root, check=True)
    endings = []
    for stage, section in (("tune", "sft"), ("topk", "teacher-topk"), ("report", "digest")):
        ended = run(root, stage, section, {FAIL_AT: point})
        endings.append(ended.ending)
        if ended.ending == "preempted":
            assert "killed by signal 9" in ended.detail
            assert run(root, stage, section, {}).ending == "completed"
    assert endings.count("preempted") == 1
    assert published(root / "out") == whole
    assert command(root, "dvc", "status").strip() == "Data and pipelines are up to date."


def run(root, stage, section, environment):
    """One attempt at a stage, as the flow makes it."""
    env = {"TEMPER_CHECKPOINT_SECONDS": "0", "PYTHONPATH": str(ROOT), **environment}
    quiet = lambda *_: None  # noqa: E731
    return attempt(
        root, Stage(stage, "", None, section, (), (), (section,)), Children(), force=False, say=quiet, watch=quiet, env=env
    )


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The pipeline of the soak, and what it publishes undisturbed."""
    root = make_pipeline(tmp_path_factory.mktemp("pipeline") / "checkout")
    for stage, section in (("tune", "sft"), ("topk", "teacher-topk"), ("report", "digest")):
        assert run(root, stage, section, {}).ending == "completed"
    return root, published(root / "out")


@pytest.mark.parametrize("asked", ["nowhere", "step:0", "step@", ":3"])
def test_a_point_that_is_none_is_refused(asked, monkeypatch):
    monkeypatch.setenv(FAIL_AT, asked)
    with pytest.raises(ValueError, match="must be POINT"):
        reach("step")


def test_a_point_is_counted_and_can_be_narrowed(monkeypatch):
    struck = []
    monkeypatch.setattr(os, "kill", lambda pid, number: struck.append((pid, number)))
    monkeypatch.setenv(FAIL_AT, "publish@report:2")
    for what in ("report", "model", "report"):
        assert struck == []
        reach("publish", what)
    assert struck == [(os.getpid(), signal.SIGKILL)]
