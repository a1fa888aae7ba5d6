"""Killed and run again equals never interrupted, bit for bit: weights, curve and scores, whatever killed it."""

import time

import pytest

from tasks.runtime.checkpoint import MARKER
from tests.train.stages import begin, curve_of, finish, published, write_world

pytestmark = pytest.mark.slow

EVERY_STEP = {"TEMPER_CHECKPOINT_SECONDS": "0"}
STAGES = ["pretrain", "sft", "reward"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What each stage publishes when nothing happens to it, without a single checkpoint."""
    world = write_world(tmp_path_factory.mktemp("undisturbed"))
    for stage in STAGES:
        finish(begin(stage, world, stage))
    return {stage: (published(world / stage), curve_of(world / stage)) for stage in STAGES}


@pytest.mark.parametrize(("stage", "kills"), [("pretrain", [3]), ("sft", [1, 4]), ("reward", [3])], ids=STAGES)
def test_killed_and_run_again_equals_never_interrupted(stage, kills, undisturbed, tmp_path):
    world = write_world(tmp_path)
    for steps in kills:
        killed_after(stage, world, steps)
        assert not (world / "out/model").exists(), "nothing is published halfway"
    said = finish(begin(stage, world, "out"))
    whole, curve = undisturbed[stage]
    assert f"1/{len(curve)} steps" not in said, "it went on and did not start anew"
    assert published(world / "out") == whole
    assert not list(world.glob(".temper/checkpoints/*/*"))


def test_a_damaged_newest_checkpoint_costs_only_its_steps(undisturbed, tmp_path):
    world = write_world(tmp_path)
    killed_after("sft", world, 4)
    newest = sorted(world.glob(f".temper/checkpoints/*/*/*/step-*/{MARKER}"))[-1].parent
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said = finish(begin("sft", world, "out"))
    assert f"{newest.name} skipped: model.safetensors is missing or changed" in said
    assert published(world / "out") == undisturbed["sft"][0]


def killed_after(stage, world, steps: int) -> None:
    """Run a stage that seals a checkpoint at every step, and kill it once `steps` are done."""
    process = begin(stage, world, "out", EVERY_STEP)
    wait_for_checkpoint(process, world, steps)
    process.kill()
    process.wait()


def wait_for_checkpoint(process, world, steps: int) -> None:
    """Wait until checkpoint `steps` or a later one is sealed, while the stage still runs."""
    until = time.monotonic() + 240
    while not any(int(marker.parent.name[5:]) >= steps for marker in world.glob(f".temper/checkpoints/*/*/*/step-*/{MARKER}")):
        assert process.poll() is None, f"it ended before step {steps}: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < until
        time.sleep(0.002)


def test_sigterm_finishes_the_step_seals_it_and_ends_with_75(tmp_path):
    """The clock asks for no checkpoint here: the one that is found was made because of the signal."""
    world = write_world(tmp_path)
    process = begin("pretrain", world, "out", epochs=400)
    for line in process.stderr:
        if "steps/s" in line:
            break
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said[-2000:]
    assert "pretrain: stopped by SIGTERM; step" in said.splitlines()[-1]
    (marker,) = world.glob(f".temper/checkpoints/*/*/*/step-*/{MARKER}")
    assert f"step {int(marker.parent.name[5:])} is in a checkpoint" in said


def test_sigterm_and_run_again_equals_never_interrupted(undisturbed, tmp_path):
    world = write_world(tmp_path)
    process = begin("sft", world, "out", EVERY_STEP)
    wait_for_checkpoint(process, world, 2)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said[-2000:]
    finish(begin("sft", world, "out"))
    assert published(world / "out") == undisturbed["sft"][0]
