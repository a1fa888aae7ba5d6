"""A clock that is set back changes no bit and holds nothing up: what lasts is counted by the clock that only goes forward."""

import ast
import itertools
import time

import pytest

from tasks.runtime.imports import ROOT
from tests.chaos.forked import EVERY_STEP, finish, published
from tests.chaos.trainers import TRAINERS

WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}
SCHEDULED = {"flows/deployments.py", "flows/workers/worker.py"}
"""They ask Prefect what is due: a schedule is by the wall clock."""


def test_nothing_is_measured_by_the_wall_clock():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("flows", "tasks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL
    ]
    assert [place for place in found if place.split(":")[0] not in SCHEDULED] == []


@pytest.mark.slow
def test_a_stage_whose_clock_goes_back_an_hour_at_every_look_ends_as_any_other(world, whole, tmp_path, monkeypatch):
    undisturbed, hours, honest = whole("sft"), itertools.count(), time.time
    monkeypatch.setattr(time, "time", lambda: honest() - 3600 * next(hours))
    finish("tasks.train.sft", TRAINERS["sft"].arguments(world, tmp_path), tmp_path, EVERY_STEP)
    assert published(tmp_path / "out") == published(undisturbed)
