"""Stage `hma`: heterogeneous model averaging, a ratio for each part of the layers instead of one for all (Lin et al. 2024).

For every seed and every mean `w_pre` it looks for the K ratios under which the merged model finds the RLHF model's own good
answers most likely, and writes the merge. No task data and no reward are needed: the mean buys back skills, the answers keep
what RLHF taught.
The fronts of `average` and `hma` have the same points by name, by mean and by the tensors that are averaged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from tasks.average.likelihood import encode
from tasks.average.merge import check_pair, merge, write_provenance
from tasks.average.merged import Merged
from tasks.average.ratios import reachable
from tasks.average.recipe import CONVENTION, Rest, Sweep, boundaries, count_layers
from tasks.average.search import Point, Proxy, SearchParams, Space, best, grid, search
from tasks.average.weights import Weights
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.models import derive, load_causal, on_device, preload, set_determinism
from tasks.runtime.posts import SINGLE, ScoredAnswer, answers_file, find_posts
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import read_records
from tasks.runtime.seeds import side_by_side
from tasks.runtime.stage import In, Out, Run, run_stage

RATIOS = "ratios.json"
MIX, ORDER = 1, 2
"""Which random stream a seed is for: of the answers set aside, or of the order of batches."""


class Params(SearchParams):
    """Params of HMA."""

    section: ClassVar[str] = "hma"
    w_pre: Sweep = Field(default=[0.1, 0.2, 0.3, 0.4, 0.6])
    """Means of the ratios: weights on the model before RLHF, each 0 to 1; those of `average`, for comparable fronts."""
    parts: int = Field(3, ge=1)
    """Consecutive parts of the layers with a ratio each, equal in size, the remainder to the last; at most one a layer."""
    bounds: list[int] | None = None
    """Instead of `parts`: the first layer of every part, from 0, and the number of layers."""
    rest: Rest = "mean"
    """Embeddings, final norm and output head: `mean` follows w_pre, `pre` or `post` keeps one model's."""
    grid_step: float | None = Field(None, gt=0, le=1)
    """Also try every point of a grid of this step, and tell the best: a check of the search that is affordable for few parts."""
    seed: int = Field(0, ge=0)
    """Seed of the order of batches and of the answers set aside."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one seed of RLHF; as many run side by side as the cores allow."""


@dataclass(frozen=True)
class Task:
    """What the searches of all seeds share."""

    params: Params
    run: Run
    pre: Path
    posts: Mapping[str, Path]
    proxy: Path
    bounds: Sequence[int]

    def checkpoints(self, name: str) -> Checkpoints:
        """Return the means, by their number in the sweep, that are done for the model after RLHF of this name."""
        return Checkpoints(self.run.checkpoints.folder / ("single" if name == SINGLE else f"seed-{name}"))

    def space(self, w_pre: float) -> Space:
        """Return the feasible set of one mean."""
        return Space(w_pre, self.bounds, self.params.rest)

    def found(self, name: str) -> list[dict[str, Any]]:
        """Return what was found for every mean of the sweep."""
        done = self.checkpoints(name)
        places = [done.place(number) for number in range(len(self.params.w_pre))]
        return [json.loads((place / RATIOS).read_text(encoding="utf-8")) for place in places]


def main(params: Params, run: Run, *, pre: In, post: In, proxy: In, out: Out, scores: Out, curve: Out) -> None:
    """Fit ratios for `pre` and every model below `post` on its answers in `proxy`; publish SEED/w_pre-X for every mean X."""
    posts = find_posts(post)
    pre_weights = Weights(pre)
    post_weights = {name: Weights(folder) for name, folder in posts.items()}
    for weights in post_weights.values():
        check_pair(pre_weights, weights)
    task = Task(params, run, pre, posts, proxy, boundaries(count_layers(pre_weights.place), params.parts, params.bounds))
    preload()
    side_by_side({f"seed {name}": partial(fit, task, name) for name in posts}, params.threads)
    found = {name: task.found(name) for name in posts}
    with publish(out) as draft:
        for name, weights in post_weights.items():
            hashes = pre_weights.hashes(pre, run.inputs["pre"]), weights.hashes(post, run.inputs["post"])
            answers = run.inputs["proxy"][answers_file(name)]
            write_merges(task, (pre_weights, weights), found[name], draft / name, (*hashes, answers))
    publish_curve(curve, [row for name in posts for row in _curve(name, found[name])])
    publish_json(scores, summary(task, found))
    run.checkpoints.clear()


def fit(task: Task, name: str) -> None:
    """Search the means of one model after RLHF that are still to do; each becomes a checkpoint."""
    params, done = task.params, task.checkpoints(name)
    missing = sorted(set(range(len(params.w_pre))) - set(done.steps()))
    if not missing:
        return
    set_determinism(params.seed, params.threads)
    records = read_records(task.proxy / answers_file(name), ScoredAnswer)
    (pre, tokenizer), (post, _) = load_causal(task.pre), load_causal(task.posts[name])
    context = pre.config.get_text_config().max_position_embeddings
    examples = encode(tokenizer, [(record.prompt, record.response) for record in records], context)
    proxy = Proxy.of(examples, params.validation, random.Random(derive(params.seed, MIX)))
    merged = Merged(on_device(pre), on_device(post), task.bounds)
    progress = task.run.progress(params.steps * len(missing), "steps", "" if name == SINGLE else f"seed {name}")
    for number in missing:
        space = task.space(params.w_pre[number])
        points = search(merged, proxy, space, params, random.Random(derive(params.seed, ORDER, number)), progress.advance)
        with done.save(number) as draft:
            facts = describe(task, space, points) | try_grid(params, merged, proxy, space)
            (draft / RATIOS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def describe(task: Task, space: Space, points: Sequence[Point]) -> dict[str, Any]:
    """Return what a search found, as it stands beside the weights; likelihoods are in nats per answer."""
    chosen = best(points)
    return {
        "w_pre_mean": space.w_pre,
        "K": space.parts,
        "bounds": list(space.bounds),
        "w": chosen.w,
        "eps": task.params.eps,
        "rest": space.rest,
        "proxy_ll": chosen.proxy_ll,
        "proxy_ll_uniform": points[0].proxy_ll,
        "held_ll": chosen.held_ll,
        "held_ll_uniform": points[0].held_ll,
        "step": chosen.step,
        "steps": points[-1].step,
        "movement": points[-1].movement,
        "convention": CONVENTION,
        "course": [asdict(point) for point in points],
    }


def try_grid(params: Params, merged: Merged, proxy: Proxy, space: Space) -> dict[str, Any]:
    """Return the best point of the grid, if one is asked for, and the best of those that the search could reach under `eps`."""
    if params.grid_step is None:
        return {}
    tried = grid(merged, proxy, space, params.grid_step, params.batch)
    within = [(w, value) for w, value in tried if reachable(w, params.eps)]
    kinds = {"grid": tried, "grid_reachable": within}
    tops = {kind: max(points, key=lambda point: point[1]) for kind, points in kinds.items() if points}
    return {kind: {"w": w, "proxy_ll": value} for kind, (w, value) in tops.items()}


def write_merges(
    task: Task,
    pair: tuple[Weights, Weights],
    found: Sequence[Mapping[str, Any]],
    folder: Path,
    hashes: tuple[Mapping[str, str], Mapping[str, str], str],
) -> None:
    """Merge one model after RLHF with all its ratios in one reading; put the ratios and what they were fitted on beside each."""
    pre, post, answers = hashes
    recipes = {folder / f"w_pre-{facts['w_pre_mean']:g}": task.space(facts["w_pre_mean"]).recipe(facts["w"]) for facts in found}
    merge(*pair, recipes)
    for (place, recipe), facts in zip(recipes.items(), found, strict=True):
        write_provenance(place, recipe, pre, post, "hma")
        told = {key: value for key, value in facts.items() if key != "course"}
        told["sha256"] = {"pre": dict(pre), "post": dict(post), "proxy": answers}
        (place / RATIOS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def summary(task: Task, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the stage's scores: for every mean the ratios and likelihoods, averaged over seeds, then for each seed."""
    keys = ("w", "proxy_ll", "proxy_ll_uniform", "held_ll", "held_ll_uniform", "steps", "movement", "grid", "grid_reachable")
    means = {}
    for number, w_pre in enumerate(task.params.w_pre):
        each = [facts[number] for facts in found.values()]
        means[f"{w_pre:g}"] = {
            "w": [fmean(ratios) for ratios in zip(*(facts["w"] for facts in each), strict=True)],
            "gain": fmean(facts["proxy_ll"] - facts["proxy_ll_uniform"] for facts in each),
            "held_gain": fmean(facts["held_ll"] - facts["held_ll_uniform"] for facts in each),
        }
    seeds = {
        "all" if name == SINGLE else name: {
            f"{facts['w_pre_mean']:g}": {key: facts[key] for key in keys if key in facts} for facts in searched
        }
        for name, searched in found.items()
    }
    return {"models": len(seeds) * len(means), "bounds": list(task.bounds), "means": means, "seeds": seeds}


def _curve(name: str, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every measured point of the searches of one model after RLHF."""
    rows = []
    for facts in found:
        for point in facts["course"]:
            shares = {f"w_{part}": share for part, share in enumerate(point["w"])}
            row = {"seed": "" if name == SINGLE else name, "w_pre": facts["w_pre_mean"], "step": point["step"]}
            rows.append(row | {key: point[key] for key in ("proxy_ll", "held_ll", "movement")} | shares)
    return rows


if __name__ == "__main__":
    run_stage(main)
