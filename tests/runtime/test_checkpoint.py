"""A checkpoint is whole or not there: nothing that was cut short, damaged or left behind is ever resumed from."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runtime.checkpoint import MANIFEST, MARKER, Checkpoints, damage


def save(checkpoints: Checkpoints, step: int) -> Path:
    """A checkpoint of two files, one in a folder."""
    with checkpoints.save(step) as draft:
        (draft / "weights.bin").write_bytes(bytes([step]) * 1000)
        (draft / "state").mkdir()
        (draft / "state/position.json").write_text(json.dumps({"step": step}))
    return checkpoints.place(step)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_the_newest_one_is_resumed_from(checkpoints):
    save(checkpoints, 5)
    place = save(checkpoints, 12)
    assert checkpoints.latest() == (12, place)
    assert json.loads((place / "state/position.json").read_text()) == {"step": 12}


def test_without_one_there_is_nothing_to_resume_from(checkpoints):
    assert checkpoints.latest() is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / MARKER).unlink(),
        lambda place: (place / MANIFEST).write_text("{"),
        lambda place: (place / "weights.bin").write_bytes(bytes(999)),
        lambda place: (place / "weights.bin").write_bytes(bytes([12]) * 999 + bytes([13])),
        lambda place: (place / "state/position.json").unlink(),
    ],
    ids=["no marker", "manifest cut", "file cut", "one byte changed", "file gone"],
)
def test_a_damaged_one_is_named_and_passed_over(checkpoints, capsys, harm):
    save(checkpoints, 5)
    harm(save(checkpoints, 12))
    assert checkpoints.latest() == (5, checkpoints.place(5))
    assert "step-00000012 skipped: " in capsys.readouterr().err


def test_a_failure_while_filling_leaves_no_checkpoint(checkpoints):
    save(checkpoints, 5)
    with pytest.raises(OSError, match="disk"), checkpoints.save(12) as draft:
        (draft / "weights.bin").write_bytes(b"half")
        raise OSError("disk")
    assert checkpoints.steps() == [5]
    save(checkpoints, 12)
    assert checkpoints.steps() == [5, 12], "what the failed one left is no obstacle"


def test_a_kill_at_any_moment_of_sealing_leaves_the_older_one(checkpoints, tmp_path):
    """The process is killed at the first, second, third ... flush to disk; what is found is always whole."""
    code = f"""
import os, signal, sys
from pathlib import Path
from tasks.runtime import publish
from tasks.runtime.checkpoint import Checkpoints
left = int(sys.argv[1])
flush = os.fsync
def dying(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = dying
with Checkpoints(Path({str(checkpoints.folder)!r})).save(12) as draft:
    (draft / "weights.bin").write_bytes(bytes(1000))
"""
    save(checkpoints, 5)
    found = []
    for moment in range(1, 60):
        done = subprocess.run([sys.executable, "-c", code, str(moment)], env={**os.environ, "PYTHONPATH": os.getcwd()})
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        newest = checkpoints.latest()
        assert newest is not None
        assert damage(newest[1]) is None
        found.append(newest[0])
    assert done.returncode == 0, "the flushes were counted to the end"
    assert found[0] == 5
    assert checkpoints.latest() == (12, checkpoints.place(12))


def test_only_the_newest_are_kept_when_pruned(checkpoints):
    for step in (1, 2, 3, 10):
        save(checkpoints, step)
    checkpoints.prune(keep=2)
    assert checkpoints.steps() == [3, 10]


def test_nothing_is_left_when_cleared(checkpoints):
    save(checkpoints, 1)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
