"""Killed and run again, DPO, GRPO and RLOO publish the bits of a run that nothing disturbed: every snapshot, curve and scores."""

import time

import pytest

from tasks.runtime.checkpoint import MARKER
from tests.rlhf.trl_world import begin, published, write_world

pytestmark = pytest.mark.slow

EVERY_STEP = {"TEMPER_CHECKPOINT_SECONDS": "0"}


def finish(process) -> str:
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said[-4000:]
    return said


@pytest.mark.parametrize("stage", ["dpo", "grpo", "rloo"])
def test_killed_and_run_again_equals_never_interrupted(stage, tmp_path):
    """Killed after the third of six steps, so that one snapshot is from before and two are from after."""
    whole, world = write_world(tmp_path / "whole"), write_world(tmp_path / "killed")
    finish(begin(stage, whole, penalty="l2", strength=1e-4))
    process = begin(stage, world, EVERY_STEP, penalty="l2", strength=1e-4)
    until = time.monotonic() + 240
    while not list(world.glob(f".temper/checkpoints/*/*/*/step-0000000[3-5]/{MARKER}")):
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (world / "out/model").exists()
    said = finish(begin(stage, world, penalty="l2", strength=1e-4))
    assert "6/6 steps" not in said, "it went on and did not start anew"
    assert published(world / "out") == published(whole / "out")
    assert not list(world.glob(".temper/checkpoints/*/*"))
