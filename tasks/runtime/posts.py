"""The models after RLHF, one for each seed, and the answers drawn from them: what stages of several rooms must name alike."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks.runtime.params import UserError
from tasks.runtime.records import Record

SINGLE = "."
"""Name of a single model after RLHF, which has no seed: what is made from it stands at the top of the out."""


class ScoredAnswer(Record):
    """An answer sampled from a model, with its reward: a row of the proxy-distillation set."""

    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    reward: float = Field(allow_inf_nan=False)
    seed: int = Field(ge=0)
    """Seed of the RLHF run the answer was sampled from; for a single model, the seed of the sampling."""


def find_posts(post: Path) -> dict[str, Path]:
    """Return the models after RLHF by the name of their folder in an out: the seed of a run, or SINGLE where there is but one.

    `post` is a model folder, one run (iteration-K, the last K counts) or several (SEED/iteration-K). Raises UserError otherwise.
    """
    if (post / "config.json").is_file():
        return {SINGLE: post}
    if last := last_iteration(post):
        return {SINGLE: last}
    seeds = sorted((path for path in post.iterdir() if path.is_dir()), key=lambda path: (len(path.name), path.name))
    found = {seed.name: last for seed in seeds if (last := last_iteration(seed))}
    if not found:
        raise UserError(f"{post}: neither a model folder (config.json) nor the seeds of a RAFT run (SEED/iteration-K)")
    return found


def last_iteration(run: Path) -> Path | None:
    """Return the folder `iteration-K` of the largest K in the folder of a run, or None when it holds none."""
    numbers = [int(number) for path in run.glob("iteration-*") if (number := path.name.removeprefix("iteration-")).isdigit()]
    return run / f"iteration-{max(numbers)}" if numbers else None


def answers_file(name: str) -> str:
    """Return the name of the file of answers of the model after RLHF called `name` by `find_posts`."""
    return "proxy.jsonl" if name == SINGLE else f"{name}.jsonl"
