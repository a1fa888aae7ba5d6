"""What a run trains on and in which order, drawn beforehand from the seed.

So a step trains on the same rows on any number of processes and after any interruption.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.fit.params import FitParams
from tasks.runtime.launch import Place
from tasks.runtime.params import UserError
from tasks.runtime.stage import Run

REACHED = ("step", "learning_rate", "tokens")
"""Columns of a curve that tell where a run has got to; the others measure it."""
POINTS = 200
"""Most rows of a published curve; in a longer run each row is the mean of several steps."""


@dataclass(frozen=True)
class Plan:
    """What a run trains on, in which order, and where."""

    run: Run
    params: FitParams
    place: Place
    lengths: Sequence[int]
    """Tokens of every row of the data, padding left out."""
    answers: int = 1
    """Sequences a row becomes: more than 1 where rows are prompts, each answered several times."""
    snapshots: int = 0
    """Models kept on the way to the end, the end included."""
    ranks: Sequence[int] = ()
    """A number for every row: those of a lower one come first in an epoch. By default all are alike."""

    @cached_property
    def order(self) -> list[int]:
        """Row numbers of the whole run, in whole batches: one shuffle an epoch, by rank, the last one cut or another begun."""
        count, batch = len(self.lengths), self.params.batch_size
        total = max(1, round(count * self.params.epochs / batch)) * batch
        draw = random.Random(self.params.seed)
        shuffles = (draw.sample(range(count), count) for _ in itertools.count())
        epochs = (sorted(rows, key=self.ranks.__getitem__) if self.ranks else rows for rows in shuffles)
        return list(itertools.islice(itertools.chain.from_iterable(epochs), total))

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.order) // self.params.batch_size

    @property
    def snapshot_steps(self) -> list[int]:
        """Steps after which a snapshot is kept, evenly spaced. Raises UserError when there are fewer steps than snapshots."""
        if self.steps < self.snapshots:
            name = self.params.section
            raise UserError(f"{name}.snapshots: {self.snapshots} in {self.steps} steps; lower it, or raise {name}.epochs")
        return [self.steps * number // self.snapshots for number in range(1, self.snapshots + 1)]

    @cached_property
    def seen(self) -> list[int]:
        """Tokens seen after every step."""
        tokens = list(itertools.accumulate(self.lengths[row] for row in self.order))
        return tokens[self.params.batch_size - 1 :: self.params.batch_size]

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run; another place keeps its state in other pieces and starts anew."""
        return Checkpoints(self.run.checkpoints.folder / self.place.name)


def renamed(curve: Sequence[dict[str, float]], names: Mapping[str, str]) -> list[dict[str, float]]:
    """Return a curve with the columns that `names` lists under their new names."""
    return [{names.get(name, name): value for name, value in row.items()} for row in curve]


def thinned(curve: Sequence[dict[str, float]], points: int = POINTS) -> list[dict[str, float]]:
    """Return at most `points` rows of a curve, each standing for several steps: their last step, the means of their measures."""
    size = math.ceil(len(curve) / points)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [
        {
            name: last if name in REACHED else math.fsum(row[name] for row in group) / len(group)
            for name, last in group[-1].items()
        }
        for group in groups
    ]
