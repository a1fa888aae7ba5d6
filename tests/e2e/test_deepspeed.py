"""Under the deepspeed launcher the stages train the same: on two processes, in pieces, and when they are stopped or killed."""

import signal
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tasks.runtime.models import load_causal, load_reward
from tests.train.stages import begin, curve_of, finish, write_world

pytestmark = pytest.mark.slow

ZERO2 = {"TEMPER_PROCESSES": "2", "TEMPER_ZERO": "2"}
ZERO3 = {"TEMPER_PROCESSES": "1", "TEMPER_ZERO": "3"}
SHORT = {"epochs": 0.7}
"""Nine or so steps: enough for Adam to have a memory, few enough for two processes on shared cores."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Inputs, and beside them what one process makes of them."""
    place = write_world(tmp_path_factory.mktemp("deepspeed"))
    for stage in ("pretrain", "sft", "reward"):
        finish(begin(stage, place, f"{stage}-alone", **SHORT))
    return place


@pytest.mark.parametrize(
    ("stage", "where"),
    [("pretrain", ZERO2), ("sft", ZERO2), ("sft", ZERO3), ("pretrain", ZERO3), ("reward", ZERO2)],
    ids=lambda value: value if isinstance(value, str) else f"zero{value['TEMPER_ZERO']}",
)
def test_the_curve_and_the_model_are_those_of_one_process(world, stage, where):
    out = f"{stage}-zero{where['TEMPER_ZERO']}"
    finish(begin(stage, world, out, where, **SHORT))
    alone, together = curve_of(world / f"{stage}-alone"), curve_of(world / out)
    assert len(together) == len(alone) >= 5
    for one, other in zip(alone, together, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other == pytest.approx({**one, "loss": other["loss"]}, abs=1e-4)
    load = load_reward if stage == "reward" else load_causal
    model, _ = load(world / out / "model")
    expected = load_file(world / f"{stage}-alone/model/model.safetensors")
    found = load_file(world / out / "model/model.safetensors")
    assert found.keys() == expected.keys()
    assert sum(weights.numel() for weights in found.values()) == model.num_parameters()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-3, rtol=0, msg=name)
    names = [sorted(path.name for path in (world / folder / "model").iterdir()) for folder in (out, f"{stage}-alone")]
    assert names[0] == names[1], "the same plain folder"


def test_a_batch_that_two_processes_cannot_share_is_refused(world):
    process = begin("sft", world, "odd", ZERO2, batch_size=5)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 2
    assert "batch_size: 5 rows cannot be shared evenly by 2 processes; use a multiple of 2" in said


def test_sigterm_seals_a_checkpoint_and_the_next_run_goes_on(world):
    process = begin("sft", world, "stopped", ZERO2 | {"TEMPER_CHECKPOINT_SECONDS": "0"}, **SHORT)
    read_until_step(process)
    process.terminate()
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 75, said[-3000:]
    other = begin("sft", world, "stopped", **SHORT)
    refusal = other.communicate(timeout=600)[1]
    assert other.returncode == 2
    assert "was reached by 2 processes with ZeRO-2" in refusal, "one process cannot read what two have written"
    assert "set TEMPER_PROCESSES=2 TEMPER_ZERO=2 to go on" in refusal
    said = finish(begin("sft", world, "stopped", ZERO2, **SHORT))
    alone, together = curve_of(world / "sft-alone"), curve_of(world / "stopped")
    assert f"1/{len(alone)} steps" not in said
    assert [row["loss"] for row in together] == pytest.approx([row["loss"] for row in alone], abs=1e-4)


def test_when_the_stage_is_killed_every_process_dies_with_it(world):
    process = begin("pretrain", world, "killed", ZERO2, epochs=1000)
    read_until_step(process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "the launcher and two that train"
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not (world / "killed/model").exists()


def read_until_step(process) -> None:
    """Wait until the first step is shown."""
    until = time.monotonic() + 600
    for line in process.stderr:
        if " steps/s " in line:
            return
        assert time.monotonic() < until
    raise AssertionError("it ended before its first step")
