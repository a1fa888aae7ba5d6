"""A full disk: said with the remedy, and what was there before is there after; then the run goes on to the same bits."""

import resource
from contextlib import contextmanager

import pytest

from tasks.runtime.checkpoint import Checkpoints
from tests.chaos.forked import EVERY_STEP, begin, finish, published
from tests.chaos.trainers import TRAINERS

LIMIT = 20_000
"""Bytes of the largest file that may be written: less than a model's weights, more than a page of scores."""


@contextmanager
def small_files():
    """Let this process, and what it starts, write no file larger than LIMIT: for who writes, a full disk by another name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "environment"), [("sft", EVERY_STEP), ("sft", {}), ("ppo", {}), ("teacher", {})])
def test_a_full_disk_stops_the_stage_with_the_remedy_and_costs_nothing_else(name, environment, world, whole, tmp_path):
    """At a checkpoint, at the model, at the state of PPO, at the top-k file."""
    undisturbed, trainer = whole(name), TRAINERS[name]
    arguments = trainer.arguments(world, tmp_path)
    with small_files():
        stage = begin(trainer.module, arguments, tmp_path, environment)
    code, said = stage.end()
    assert code == 1
    assert "disk is full: free some space and run again" in said.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*")), "nothing is half there"
    finish(trainer.module, arguments, tmp_path)
    assert published(tmp_path / "out") == published(undisturbed)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with checkpoints.save(1) as draft:
        (draft / "weights").write_bytes(b"1" * 1000)
    with small_files(), pytest.raises(OSError, match="File too large"), checkpoints.save(2) as draft:
        (draft / "weights").write_bytes(b"2" * 2 * LIMIT)
    assert checkpoints.steps() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "the draft does not keep the disk full"
