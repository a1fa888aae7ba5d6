"""Dead at any named point and run again: the same bits, nothing half there, and no point that a test does not know."""

import json
import os
import signal

import pytest

from flows.planning.graph import Stage
from flows.stage import Children, attempt
from tasks.runtime.chaos import FAIL_AT, POINTS, reach
from tasks.runtime.imports import ROOT
from tests.chaos.forked import finish, killed, published
from tests.chaos.soak import DIGEST
from tests.chaos.trainers import TRAINERS
from tests.flows.checkout import command, make_checkout

COUNT = '''
"""Squares numbers, a checkpoint each."""
import json
from typing import ClassVar
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_json, publish
from tasks.runtime.stage import Out, Run, run_stage

class Params(StageParams):
    section: ClassVar[str] = "count"
    steps: int = 4

def main(params: Params, run: Run, *, out: Out) -> None:
    latest = run.checkpoints.latest()
    done = json.loads((latest[1] / "state.json").read_text()) if latest else []
    for step in range(len(done), params.steps):
        done.append(step * step)
        with open("counted", "a") as file:
            file.write(f"{step} ")
        with run.checkpoints.save(step) as draft:
            (draft / "state.json").write_text(json.dumps(done))
    with publish(out) as draft:
        draft.write_text(json.dumps(done))
    run.checkpoints.clear()

if __name__ == "__main__":
    run_stage(main)
'''
STAGES = """\
  count:
    cmd: python -m count --out out/count.json
    params: [count]
    deps: [count.py]
    outs: [out/count.json]
  digest:
    cmd: python -m digest --tuned out/count.json --topk out/count.json --out out/report
    params: [digest]
    deps: [digest.py, out/count.json]
    outs: [out/report]
"""
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
def test_under_dvc_dead_again_and_again_it_ends_as_if_nothing_had_been(tmp_path):
    """Before and after an out takes its place, between the outs and dvc.lock, at a checkpoint, while the page is written."""
    root = make_checkout(tmp_path / "c", STAGES, "count: {steps: 4}\ndigest: {title: Squares}")
    (root / "count.py").write_text(COUNT)
    (root / "digest.py").write_text(DIGEST)
    dies(root, "count", "checkpoint.unmarked:2", "checkpoint.sealed:2", "publish@count.json", "published@count.json", "done")
    dies(root, "digest", "publish@report", "published@report", "done@digest")
    assert json.loads((root / "out/count.json").read_text()) == [0, 1, 4, 9]
    assert (root / "out/report/index.html").read_text() == "<h1>Squares</h1><pre>[0, 1, 4, 9]</pre><pre>[0, 1, 4, 9]</pre>"
    assert sorted(path.name for path in root.glob("out/**/*")) == ["count.json", "index.html", "report"], "no draft is left"
    assert not list(root.glob(".temper/*/count/*/step-*")), "DVC has recorded them, so nothing is kept"
    assert command(root, "dvc", "status").strip() == "Data and pipelines are up to date."
    assert (root / "counted").read_text() == "0 1 1 2 3 ", "what was in no checkpoint was done twice, the rest once"


def dies(root, stage: str, *points: str) -> None:
    """Attempt a stage, to die at each of the points in turn, and then to its end."""
    for point in points:
        ended = run(root, stage, {FAIL_AT: point})
        assert (ended.ending, ended.code) == ("preempted", -signal.SIGKILL), f"{point}: {ended}"
    assert run(root, stage, {}).ending == "completed"


def run(root, stage: str, environment: dict[str, str]):
    """One attempt at a stage, as the flow makes it."""
    quiet = lambda *_: None  # noqa: E731
    asked = Stage(stage, "", None, stage, (), (), (stage,))
    env = {"PYTHONPATH": str(ROOT), **environment}
    return attempt(root, asked, Children(), force=False, say=quiet, watch=quiet, env=env)


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
