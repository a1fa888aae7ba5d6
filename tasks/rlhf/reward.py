"""One interface for every reward: a reward model's folder, or a Python function named in params.

A reward maps (prompt, completion) pairs to finite numbers. One that is broken is refused before it can be optimised: an
advantage or an argmax over NaN means nothing, and one that never varies teaches nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.runtime.models import load_reward, on_device
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress
from tasks.runtime.score import score

Answer = tuple[str, str]
"""A prompt and a completion."""
Reward = Callable[[Sequence[Answer]], list[float]]
"""Scores answers; higher is better, in units of its own."""
MODEL = "model"
"""The name in params that means the reward model's folder."""


def load(name: str, folder: Path, batch_size: int, progress: Progress | None = None) -> Reward:
    """Return the reward that params call `name`: MODEL for the model in `folder`, else `package.module:function`.

    The function takes a prompt and a completion and returns a number. `batch_size` and `progress` are the model's. Raises
    UserError when there is no such function.
    """
    if name != MODEL:
        return from_function(find(name), name)
    model, tokenizer = load_reward(folder)
    on_device(model)
    return lambda answers: score(model, tokenizer, answers, batch_size=batch_size, progress=progress)


def find(name: str) -> Callable[[str, str], float]:
    """Return the function called `package.module:function`. Raises UserError when there is none."""
    module, colon, attribute = name.partition(":")
    try:
        found: Callable[[str, str], float] = vars(importlib.import_module(module))[attribute]
    except (ImportError, KeyError, ValueError) as error:
        form = "" if colon else f"; write {MODEL}, or package.module:function"
        raise UserError(f"reward: {name!r} names no function ({type(error).__name__}: {error}){form}") from None
    if not callable(found):
        raise UserError(f"reward: {name!r} is a {type(found).__name__}, not a function of prompt and completion")
    return found


def from_function(function: Callable[[str, str], float], name: str) -> Reward:
    """Return a function of one answer as a reward. Calling it raises UserError, naming the answer, where the function fails."""

    def reward(answers: Sequence[Answer]) -> list[float]:
        return [_value(function, name, answer) for answer in answers]

    return reward


def _value(function: Callable[[str, str], float], name: str, answer: Answer) -> float:
    try:
        value = float(function(*answer))
    except Exception as error:
        raise UserError(f"reward {name} fails with {type(error).__name__}: {error}; {_told(answer)}") from error
    if not math.isfinite(value):
        raise UserError(f"reward {name} gives {value}, not a finite number; {_told(answer)}")
    return value


def _told(answer: Answer) -> str:
    return f"it was given the prompt {answer[0][:80]!r} and the answer {answer[1][:80]!r}"


def check_varied(rewards: Sequence[float], where: str) -> None:
    """Raise UserError when all rewards are equal: nothing would be learned, and no curve would show why."""
    if len(rewards) > 1 and len(set(rewards)) == 1:
        raise UserError(
            f"{where}: all {len(rewards)} answers have the same reward {rewards[0]:g}, so there is nothing to learn; "
            "choose a reward that varies, or raise the sampling temperature"
        )
