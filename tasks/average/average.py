"""Stage `average`: average the model before RLHF with the one after it, over a sweep of `w_pre`.

RLHF buys reward with skills the model had before. Walking back along the straight line between the two models returns much of
the skill for little of the reward; the sweep gives the front that `evaluate` compares with early stopping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field, model_validator

from tasks.average.arithmetic import Squares
from tasks.average.merge import merge, write_provenance
from tasks.average.recipe import Recipe, Rest, Sweep, alone, count_layers, layer_of, split, uniform
from tasks.average.weights import Weights
from tasks.runtime.params import StageParams
from tasks.runtime.posts import SINGLE, find_posts
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the averaging sweep."""

    section: ClassVar[str] = "average"
    w_pre: Sweep = Field(default=[0.1, 0.2, 0.3, 0.4, 0.6])
    """Weights on the model before RLHF, each 0 to 1; one fewer than RAFT has iterations, for fronts of equal size."""
    rest: Rest = "mean"
    """Embeddings, final norm and output head: `mean` follows w_pre, `pre` or `post` keeps one model's."""
    parts: int = Field(3, ge=1)
    """Parts of the layers: the scores say how far RLHF moved each (of fewer, if there are fewer layers), `only` names one."""
    only: int | None = Field(None, ge=0)
    """Number of the one part to average, 0 at the input; all else, the rest too, stays as after RLHF. All parts if null."""

    @model_validator(mode="after")
    def _one_of_the_parts(self) -> Params:
        if self.only is not None and self.only >= self.parts:
            raise ValueError(f"only must name one of {self.parts} parts, 0 to {self.parts - 1}, got {self.only}")
        if self.only is not None and self.rest == "pre":
            raise ValueError("with `only`, the rest stays as after RLHF; leave out rest: pre")
        return self

    def recipe(self, w_pre: float, layers: int) -> Recipe:
        """Return what a point of the sweep averages in a model of so many layers."""
        if self.only is None:
            return uniform(w_pre, layers, self.rest)
        return alone(w_pre, self.only, split(layers, self.parts))


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
            recipes = {draft / name / f"w_pre-{w:g}": params.recipe(w, layers) for w in params.w_pre}
            squares = merge(pre_weights, weights, recipes, lambda done: progress.advance(done / 1e6))
            for folder, recipe in recipes.items():
                write_provenance(
                    folder, recipe, pre_weights.hashes(pre, run.inputs["pre"]), weights.hashes(post, run.inputs["post"])
                )
            moved[name] = distances(squares, params.parts)
    publish_json(scores, _scores(params, pre_weights, moved))


def distances(squares: Mapping[str, Squares], parts: int = 3) -> dict[str, float]:
    """Return ||post - pre|| / ||pre|| of each part of the layers, of the rest and of all, from the sums of every tensor."""
    layers = count_layers(squares)
    bounds = split(layers, min(parts, layers))
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
