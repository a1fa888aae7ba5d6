"""Parts of a stage side by side: each in its own process, one that fails fails the stage, after the others are done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.runtime.params import UserError
from tasks.runtime.seeds import for_each_seed, side_by_side
from tasks.runtime.stage import Preempted


def test_every_seed_runs_in_a_process_of_its_own(tmp_path):
    for_each_seed(lambda seed: (tmp_path / str(seed)).write_text(str(os.getpid())), [0, 1, 5], threads=1)
    pids = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(pids) == {"0", "1", "5"}
    assert len({*pids.values(), str(os.getpid())}) == 4


def test_no_more_run_at_once_than_the_cores_allow(tmp_path):
    def work(seed):
        running = tmp_path / f"running-{seed}"
        running.touch()
        (tmp_path / f"saw-{seed}").write_text(str(len(list(tmp_path.glob("running-*")))))
        time.sleep(0.1)
        running.unlink()

    for_each_seed(work, [0, 1, 2], threads=os.cpu_count())
    assert [(tmp_path / f"saw-{seed}").read_text() for seed in range(3)] == ["1", "1", "1"]


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "raised"), [(UserError("wrong"), UserError), (OSError("full"), RuntimeError), (Preempted("saved"), Preempted)]
)
def test_a_failed_part_is_named_once_the_others_are_done(tmp_path, error, raised, capfd):
    parts = {"bad": lambda: fail(error), "good": lambda: (tmp_path / "good").touch()}
    with pytest.raises(raised, match="bad ended with"):
        side_by_side(parts, threads=1)
    assert (tmp_path / "good").exists()
    assert str(error) in capfd.readouterr().err


def test_a_mistake_of_the_user_outweighs_a_crash():
    """It is final, and a crash would be tried again."""
    with pytest.raises(UserError):
        side_by_side({"crash": lambda: fail(OSError()), "mistake": lambda: fail(UserError("wrong"))}, threads=1)


def test_a_part_killed_for_memory_is_told():
    with pytest.raises(RuntimeError, match="seed 3 ended with -9"):
        for_each_seed(lambda seed: os.kill(os.getpid(), signal.SIGKILL), [3], threads=1)


TORCH_AFTER_FORK = """
import sys
from pathlib import Path
import torch
from tasks.runtime.seeds import for_each_seed
from tasks.runtime.models import set_determinism

def work(seed):
    set_determinism(seed, 1)
    product = torch.randn(300, 300) @ torch.randn(300, 300)
    torch.nn.functional.softmax(product, -1).sum().item()
    Path(sys.argv[1], str(seed)).write_bytes(product.numpy().tobytes())

for_each_seed(work, [0, 1, 2], threads=1)
"""


def test_torch_computes_in_the_children_and_gives_the_same_bits_again(tmp_path):
    """Forking after the import is safe as long as the parent has computed nothing; a hang would show here."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", TORCH_AFTER_FORK, tmp_path / name], check=True, timeout=120, cwd=Path.cwd())
    first = [(tmp_path / "a" / str(seed)).read_bytes() for seed in range(3)]
    assert first == [(tmp_path / "b" / str(seed)).read_bytes() for seed in range(3)]
    assert len(set(first)) == 3
