"""A fair learning rate for DPO, the steered policy's rival: that of the largest reward on prompts apart from those reported.

At the steered policy's own rate DPO collapses, and to lie above a collapse proves nothing. What chooses is the reward that DPO
itself was trained for, the model's, on `validation.jsonl`; the true one is nobody's to choose by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from tasks.runtime.directions import ATTRIBUTES, along
from tasks.runtime.params import UserError

Row = dict[str, Any]
Sweep = Mapping[str, Mapping[str, Row]]
"""For each rate the rows of one seed's last policy, on the prompts `validation` and `heldout`."""


def rates(folder: Path) -> dict[str, Path]:
    """Return the folders RATE below `folder` by rate, ascending. Raises UserError when there is none."""
    found = [place for place in folder.iterdir() if _is_rate(place.name)]
    if not found:
        raise UserError(f"{folder}: holds no RATE/SEED/iteration-K; run the stage dpa-dpo")
    return {place.name: place for place in sorted(found, key=lambda place: float(place.name))}


def _is_rate(name: str) -> bool:
    try:
        return float(name) > 0
    except ValueError:
        return False


def table(sweeps: Iterable[Sweep], angle: float) -> dict[str, dict[str, float]]:
    """Return for each rate the mean over seeds of the reward at `angle`: by the model on validation, both ways held out."""
    seeds = list(sweeps)
    return {
        rate: {
            "validation": fmean(reward(seed[rate]["validation"], angle, "model_") for seed in seeds),
            "heldout_model": fmean(reward(seed[rate]["heldout"], angle, "model_") for seed in seeds),
            "heldout_true": fmean(reward(seed[rate]["heldout"], angle, "") for seed in seeds),
        }
        for rate in seeds[0]
    }


def choose(swept: Mapping[str, Mapping[str, float]]) -> str:
    """Return the rate with the largest reward on the validation prompts; of equals the gentlest."""
    return max(swept, key=lambda rate: (swept[rate]["validation"], -float(rate)))


def reward(row: Row, angle: float, prefix: str) -> float:
    """Return a row's mean reward along `angle`, by the truth or, with the prefix `model_`, by the reward model."""
    return along(angle, {name: row[f"{prefix}{name}"] for name in ATTRIBUTES})
