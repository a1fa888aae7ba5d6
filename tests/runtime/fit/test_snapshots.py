"""Snapshots are evenly spaced, end at the end, and a missing one makes the run go back to where it can be made again."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan
from tasks.runtime.fit.snapshots import Snapshots
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.stage import Run


class Params(FitParams):
    """Params of no stage."""

    section = "toy"


def plan(steps: int, snapshots: int) -> Plan:
    return Plan(Run("toy", "x", Lease(Path("none"), "toy")), Params(batch_size=1), Place(), [1] * steps, snapshots=snapshots)


@given(st.integers(1, 40), st.integers(0, 200))
def test_they_are_evenly_spaced_and_end_at_the_end(snapshots, more):
    steps = plan(snapshots + more, snapshots).snapshot_steps
    gaps = [after - before for before, after in pairwise([0, *steps])]
    assert steps[-1] == snapshots + more
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_checkpoints_beyond_a_damaged_snapshot_are_given_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan(6, 3)
    kept = Snapshots(SimpleNamespace(), None, made, "").kept
    for checkpoints, steps in ((kept, (2, 4)), (made.checkpoints, (1, 3, 5))):
        for step in steps:
            with checkpoints.save(step) as draft:
                (draft / "weights").write_text(str(step))
    Snapshots(SimpleNamespace(), None, made, "")
    assert made.checkpoints.steps() == [1, 3, 5], "snapshot 6 is still to come"
    (kept.place(4) / "weights").write_text("half")
    Snapshots(SimpleNamespace(), None, made, "")
    assert made.checkpoints.steps() == [1, 3]
