"""Stage `average`: average the model before RLHF with the one after it, over a sweep of `w_pre`.

RLHF buys reward with skills the model had before. Walking back along the straight line between the two models returns much of
the skill for little of the reward; the sweep gives the front that `evaluate` compares with early stopping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from tasks.average.arithmetic import Squares
from tasks.average.merge import merge, write_provenance
from tasks.average.recipe import Rest, count_layers, layer_of, split, uniform
from tasks.average.weights import Weights
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

PARTS = 3
"""Parts for which the scores say how far RLHF moved the model, where it has as many layers."""

SINGLE = "."
"""Name of a single model after RLHF, which has no seed: its averages stand at the top of the out."""


def _all_different(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError("every w_pre of the sweep may stand only once")
    return values


Share = Annotated[float, Field(ge=0, le=1)]


class Params(StageParams):
    """Params of the averaging sweep."""

    section: ClassVar[str] = "average"
    w_pre: Annotated[list[Share], Field(min_length=1), AfterValidator(_all_different)] = Field(default=[0.1, 0.2, 0.3, 0.4, 0.6])
    """Weights on the model before RLHF, each 0 to 1; one fewer than RAFT has iterations, for fronts of equal size."""
    rest: Rest = "mean"
    """Embeddings, final norm and output head: `mean` follows w_pre, `pre` or `post` keeps one model's."""


def main(params: Params, run: Run, *, pre: In, post: In, out: Out, scores: Out) -> None:
    """Average `pre` with `post`, a model folder or the seeds of a RAFT run (SEED/iteration-K; the last K counts), into `out`."""
    posts = find_posts(post)
    pre_weights = Weights(pre)
    post_weights = {name: Weights(folder) for name, folder in posts.items()}
    size = sum(tensor.size for tensor in pre_weights.tensors) * len(posts)
    progress = run.progress(size / 1e6, "MB")
    moved = {}
    layers = count_layers(pre_weights.place)
    with publish(out) as draft:
        for name, weights in post_weights.items():
            recipes = {draft / name / f"w_pre-{w:g}": uniform(w, layers, params.rest) for w in params.w_pre}
            squares = merge(pre_weights, weights, recipes, lambda done: progress.advance(done / 1e6))
            for folder, recipe in recipes.items():
                write_provenance(folder, recipe, _hashes(run, "pre", pre, pre_weights), _hashes(run, "post", post, weights))
            moved[name] = distances(squares)
    publish_json(scores, _scores(params, pre_weights, moved))


def find_posts(post: Path) -> dict[str, Path]:
    """Return the models after RLHF by the name of their folder in the out: SEED for a RAFT run, SINGLE for a single model.

    Raises UserError when `post` is neither a model folder nor a folder of SEED/iteration-K.
    """
    if (post / "config.json").is_file():
        return {SINGLE: post}
    found: dict[str, Path] = {}
    for seed in sorted((path for path in post.iterdir() if path.is_dir()), key=lambda path: (len(path.name), path.name)):
        iterations = {path.name.removeprefix("iteration-"): path for path in seed.glob("iteration-*")}
        numbers = [int(number) for number in iterations if number.isdigit()]
        if numbers:
            found[seed.name] = iterations[str(max(numbers))]
    if not found:
        raise UserError(f"{post}: neither a model folder (config.json) nor the seeds of a RAFT run (SEED/iteration-K)")
    return found


def distances(squares: Mapping[str, Squares]) -> dict[str, float]:
    """Return ||post - pre|| / ||pre|| of each part of the layers, of the rest and of all, from the sums of every tensor."""
    layers = count_layers(squares)
    bounds = split(layers, min(PARTS, layers))
    groups = {f"layers {first} to {stop - 1}": range(first, stop) for first, stop in pairwise(bounds)}
    found = {name: _relative(s for tensor, s in squares.items() if layer_of(tensor) in group) for name, group in groups.items()}
    found["rest"] = _relative(s for tensor, s in squares.items() if layer_of(tensor) is None)
    return found | {"all": _relative(squares.values())}


def _relative(squares: Iterable[Squares]) -> float:
    """Return the relative distance to six significant digits; 0 for a group without tensors or of zeros that did not move."""
    total = sum(squares, Squares())
    return _six_digits((total.difference / total.pre) ** 0.5) if total.pre else 0.0


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _hashes(run: Run, flag: str, given: Path, weights: Weights) -> dict[str, str]:
    """Return the SHA-256 of a model's weights files, already taken for the run's identity."""
    return {shard.path.name: run.inputs[flag][str(shard.path.relative_to(given))] for shard in weights.shards}


def _scores(params: Params, weights: Weights, moved: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    """Return the stage's scores: the size of the model, and how far RLHF moved it, as the mean over seeds and for each."""
    averaged = [tensor for tensor in weights.tensors if tensor.floating]
    each = list(moved.values())
    return {
        "models": len(params.w_pre) * len(moved),
        "tensors": len(averaged),
        "parameters": sum(tensor.length for tensor in averaged),
        "relative_distance": {part: _six_digits(fmean(found[part] for found in each)) for part in each[0]},
        "seeds": {name: found for name, found in moved.items() if name != SINGLE},
    }


if __name__ == "__main__":
    run_stage(main)
