"""Killed at a random step and run again equals never interrupted, bit for bit, for every trainer: weights, curve and scores."""

import os
import random
import signal
import time

import pytest

from tasks.runtime.checkpoint import MARKER
from tests.chaos.forked import EVERY_STEP, Forked, begin, curve, finish, killed, published
from tests.chaos.trainers import TRAINERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TRAINERS)
def test_killed_at_a_random_step_and_run_again_equals_never_interrupted(name, world, whole, tmp_path):
    trainer, undisturbed = TRAINERS[name], whole(name)
    steps = max([int(float(row.get("step", row.get("iteration", 0)))) for row in curve(undisturbed)], default=4)
    assert steps >= 3, "there is a middle"
    at = random.Random(name).randint(2, steps)
    arguments = trainer.arguments(world, tmp_path)
    killed(trainer.module, arguments, tmp_path, f"{trainer.point}:{at}")
    assert not (tmp_path / "out/model").exists(), "nothing is published halfway"
    assert list(tmp_path.glob(".temper/checkpoints/*/*")), "what was done before is there"
    said = finish(trainer.module, arguments, tmp_path)
    if trainer.fits:
        assert f"1/{steps} steps" not in said, "it went on and did not start anew"
    assert published(tmp_path / "out") == published(undisturbed)
    assert not list(tmp_path.glob(".temper/checkpoints/*/*")), "checkpoints go once the outs are there"


def test_a_damaged_newest_checkpoint_costs_only_its_steps(world, whole, tmp_path):
    arguments = TRAINERS["sft"].arguments(world, tmp_path)
    killed("tasks.train.sft", arguments, tmp_path, "step:5")
    newest = sorted(tmp_path.glob(f".temper/checkpoints/*/*/*/step-*/{MARKER}"))[-1].parent
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said = finish("tasks.train.sft", arguments, tmp_path)
    assert f"{newest.name} skipped: model.safetensors is missing or changed" in said
    assert published(tmp_path / "out") == published(whole("sft"))


def test_sigterm_finishes_the_step_seals_it_and_ends_with_75(world, tmp_path):
    """The clock asks for no checkpoint here: the one that is found was made because of the signal."""
    trainer = TRAINERS["pretrain"]
    trainer.params["epochs"], few = 200, trainer.params["epochs"]
    stage = begin(trainer.module, trainer.arguments(world, tmp_path), tmp_path)
    trainer.params["epochs"] = few
    wait_until(stage, lambda: "steps/s" in stage.log.read_text(errors="replace"))
    os.kill(stage.process, signal.SIGTERM)
    code, said = stage.end()
    assert code == 75, said[-2000:]
    assert "pretrain: stopped by SIGTERM; step" in said.splitlines()[-1]
    (marker,) = tmp_path.glob(f".temper/checkpoints/*/*/*/step-*/{MARKER}")
    assert f"step {int(marker.parent.name[5:])} is in a checkpoint" in said


@pytest.mark.parametrize("name", ["sft", "ppo", "raft"])
def test_sigterm_and_run_again_equals_never_interrupted(name, world, whole, tmp_path):
    arguments = TRAINERS[name].arguments(world, tmp_path)
    stage = begin(TRAINERS[name].module, arguments, tmp_path, EVERY_STEP)
    wait_until(stage, lambda: list(tmp_path.glob(f".temper/checkpoints/**/step-*1/{MARKER}")))
    os.kill(stage.process, signal.SIGTERM)
    code, said = stage.end()
    assert code == 75, said[-2000:]
    finish(TRAINERS[name].module, arguments, tmp_path)
    assert published(tmp_path / "out") == published(whole(name))


def wait_until(stage: Forked, true) -> None:
    """Wait until something is so, while the stage still runs."""
    deadline = time.monotonic() + 240
    while not true():
        assert os.waitpid(stage.process, os.WNOHANG) == (0, 0), f"it ended before: {stage.log.read_text()[-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_what_another_number_of_processes_has_begun_is_not_begun_anew_in_silence(name, world, tmp_path):
    trainer = TRAINERS[name]
    arguments = trainer.arguments(world, tmp_path)
    killed(trainer.module, arguments, tmp_path, "step:3")
    (mine,) = tmp_path.glob(".temper/checkpoints/*/*/zero0x1")
    mine.rename(mine.with_name("zero2x4"))
    code, said = begin(trainer.module, arguments, tmp_path).end()
    assert code == 2
    assert "step 2 was reached by 4 processes with ZeRO-2" in said
    assert "set TEMPER_PROCESSES=4 TEMPER_ZERO=2 to go on, or remove .temper/checkpoints/" in said
