"""A policy that improves in rounds, seed by seed: the course that RAFT and DPA share.

A round is a function of the last policy, the seed and its number alone, so a run that was killed goes on with the same bits.
Every round's model is kept: they are the early-stopping front.
"""

from __future__ import annotations

import json
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, Field

from tasks.runtime.chaos import reach
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_curve
from tasks.runtime.seeds import for_each_seed
from tasks.runtime.stage import Run

Row = Mapping[str, float]
"""What is told of one round, by name; its `reward` is that of the samples, so of the policy before it learns from them."""


def _all_different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("every seed may stand only once")
    return seeds


class RoundsParams(StageParams):
    """What every method that goes in rounds can be told."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_all_different)] = Field(
        default=[0, 1, 2]
    )
    """Seeds of whole runs, each with a front of its own."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one seed; as many seeds run side by side as the cores allow."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many rounds there are."""


P = TypeVar("P", bound=RoundsParams)


@dataclass(frozen=True)
class Task(Generic[P]):
    """What all rounds of all seeds share."""

    params: P
    run: Run
    policy: Path
    """Model before the first round."""
    reward: Path
    """Reward model."""
    prompts: Sequence[str]

    def checkpoints(self, seed: int) -> Checkpoints:
        """Return the rounds of one seed that are done."""
        return Checkpoints(self.run.checkpoints.folder / f"seed-{seed}")

    @property
    def numbers(self) -> range:
        """Numbers of the rounds, from 1."""
        return range(1, self.params.count + 1)


Iterate = Callable[[Task[P], int, int, Path, Path], None]
"""Does one round, (task, seed, number, policy before, draft): writes draft/model, with its answers, and draft/scores.json."""


def improve(task: Task[P], iterate: Iterate[P], out: Path, curve: Path) -> dict[int, list[Row]]:
    """Do all rounds of every seed; publish SEED/iteration-K for every round K and the curve of all; return its rows by seed."""
    seeds = task.params.seeds
    for_each_seed(partial(train, task, iterate), seeds, task.params.threads)
    rows = {seed: [_row(task.checkpoints(seed).place(number)) for number in task.numbers] for seed in seeds}
    with publish(out) as draft:
        for seed, number in product(seeds, task.numbers):
            shutil.copytree(task.checkpoints(seed).place(number) / "model", draft / str(seed) / f"iteration-{number}")
    publish_curve(curve, [{"seed": seed, **row} for seed in seeds for row in rows[seed]])
    return rows


def train(task: Task[P], iterate: Iterate[P], seed: int) -> None:
    """Do the rounds of one seed that are still to do; each becomes a checkpoint."""
    done = task.checkpoints(seed)
    ready = done.steps()
    for number in task.numbers:
        if number not in ready:
            before = task.policy if number == 1 else done.place(number - 1) / "model"
            with done.save(number) as draft:
                iterate(task, seed, number, before, draft)
                reach("step")


def summary(rows: Mapping[int, Sequence[Row]]) -> dict[str, Any]:
    """Return the stage's scores: the first reward, the last round's means over seeds, and every seed's course."""
    names = [name for name in next(iter(rows.values()))[0] if name != "iteration"]
    means = {f"last_{name}": fmean(course[-1][name] for course in rows.values()) for name in names}
    first = fmean(course[0]["reward"] for course in rows.values())
    courses = {str(seed): {name: [row[name] for row in course] for name in names} for seed, course in rows.items()}
    return {"first_reward": first, **means, "seeds": courses}


def _row(place: Path) -> Row:
    row: Row = json.loads((place / "scores.json").read_text(encoding="utf-8"))
    return row
