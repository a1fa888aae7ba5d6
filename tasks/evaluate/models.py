"""Which models are measured: the base, the one before RLHF, and for each seed the iterations of RAFT and the averages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.params import UserError

ALONE = "model"
"""Name of a folder's only model."""
ITERATION, W_PRE = re.compile(r"iteration-(\d+)"), re.compile(r"w_pre-(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Models:
    """Model folders by their role. All seeds have the same iterations and the same averages."""

    base: Path
    pre: Path
    """The model before RLHF."""
    raft: dict[str, dict[int, Path]]
    """Seed -> iteration -> folder, ascending."""
    average: dict[str, dict[float, Path]]
    """Seed -> weight on the model before RLHF -> folder, ascending."""

    @property
    def places(self) -> dict[str, Path]:
        """Return every model once, by name."""
        places = {"base": self.base, "sft": self.pre}
        for seed, iterations in self.raft.items():
            places |= {raft_name(seed, iteration): place for iteration, place in iterations.items()}
            places |= {average_name(seed, w_pre): place for w_pre, place in self.average[seed].items()}
        return places

    @property
    def seeds(self) -> list[str]:
        """Return the seeds in order."""
        return list(self.raft)

    @property
    def iterations(self) -> list[int]:
        """Return the iterations that every seed has."""
        return list(next(iter(self.raft.values())))

    @property
    def weights(self) -> list[float]:
        """Return the weights on the model before RLHF that every seed was averaged with."""
        return list(next(iter(self.average.values())))


def raft_name(seed: str, iteration: int) -> str:
    """Return the name of one iteration's model."""
    return f"{seed}/iteration-{iteration}"


def average_name(seed: str, w_pre: float) -> str:
    """Return the name of one averaged model."""
    return f"{seed}/w_pre-{w_pre:g}"


def find_models(base: Path, pre: Path, raft: Path, average: Path) -> Models:
    """Find the models below `raft` (SEED/iteration-K) and `average` (SEED/w_pre-X).

    Raises UserError when the seeds differ in what they have, or the two fronts would not have equally many points.
    """
    iterations = {seed: {int(key): place for key, place in found.items()} for seed, found in _seeds(raft, ITERATION).items()}
    averages = {seed: {float(key): place for key, place in found.items()} for seed, found in _seeds(average, W_PRE).items()}
    for folder, kinds in ((raft, iterations), (average, averages)):
        if len({tuple(sorted(found)) for found in kinds.values()}) != 1:
            raise UserError(f"{folder}: needs SEED folders that all hold the same models; run the stage that makes it again")
    if list(iterations) != list(averages):
        raise UserError(f"{raft} and {average} hold different seeds; run the stage average again")
    models = Models(
        base,
        pre,
        {seed: dict(sorted(found.items())) for seed, found in iterations.items()},
        {seed: dict(sorted(found.items())) for seed, found in averages.items()},
    )
    if len(models.iterations) != len(models.weights) + 1:
        raise UserError(
            f"the front of early stopping would have {len(models.iterations) + 1} points and that of averaging "
            f"{len(models.weights) + 2}, and more points dominate more; set raft.iterations to one more than the "
            f"number of average.w_pre, here {len(models.weights) + 1}"
        )
    return models


def below(folder: Path) -> dict[str, Path]:
    """Return every model folder at or below `folder` by its path there, ALONE for itself. Raises UserError when there is none."""
    if (folder / "config.json").is_file():
        return {ALONE: folder}
    found = {str(file.parent.relative_to(folder)): file.parent for file in sorted(folder.rglob("config.json"))}
    if not found:
        raise UserError(f"{folder}: holds no model folder (config.json); run the stage that makes it again")
    return found


def _seeds(folder: Path, pattern: re.Pattern[str]) -> dict[str, dict[str, Path]]:
    """Return the folders of each seed whose names match, by what the pattern's group holds."""
    seeds = sorted((place for place in folder.iterdir() if place.name.isdigit()), key=lambda place: int(place.name))
    return {
        seed.name: {match[1]: place for place in seed.iterdir() if (match := pattern.fullmatch(place.name))} for seed in seeds
    }
