"""The alignment tax in the abilities that papers report: lm-eval's tasks, before RLHF and for every model after it.

An ability is the mean of its tasks, in [0, 1], and its tax what the model before RLHF had more of. Tasks are lm-eval's by name,
which come with their data from the hub, or files of the same form in a folder of our own, with JSON Lines beside them.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from tasks.evaluate.models import below
from tasks.runtime.models import load_causal, on_device, preload, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.seeds import side_by_side
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

Metrics = dict[str, dict[str, float]]
"""Values of one model by task and metric, in lm-eval's own units."""
BEFORE = "before"
"""Name of the model before RLHF."""
ABILITIES = {
    "common_sense": {"arc_easy": "acc", "arc_challenge": "acc", "race": "acc", "piqa": "acc"},
    "reading": {"squadv2": "f1", "drop": "f1"},
    "translation": {"wmt14-fr-en": "bleu"},
}
"""The abilities of Lin et al. 2024 (section 3): tasks and the metric that counts."""
IN_PERCENT = {"bleu", "chrf", "ter", "squadv2/f1", "squadv2/exact"}
"""Metrics, or TASK/METRIC, that lm-eval gives in percent; all others lie in [0, 1]."""
HUB_SECONDS = 5
"""How long the hub may take to answer."""


class Params(StageParams):
    """What is measured with lm-eval, and how."""

    section: ClassVar[str] = "harness"
    tasks: Annotated[list[str], Field(min_length=1)] = Field(default=[task for group in ABILITIES.values() for task in group])
    """Tasks, groups or tags of lm-eval, or of the task files in --definitions, which win over those of the same name."""
    abilities: dict[str, Annotated[dict[str, str], Field(min_length=1)]] = Field(default=ABILITIES)
    """Task -> metric for each ability; tasks that are not measured are left out."""
    limit: int | None = Field(None, ge=1)
    """Questions of each task, from its top; null takes all."""
    num_fewshot: int | None = Field(None, ge=0, le=64)
    """Solved examples before each question; null takes what the task says."""
    batch_size: int = Field(16, ge=1)
    """Requests side by side: memory against speed. Changes a number only by rounding."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one model; as many models are measured side by side as the cores allow."""
    seed: int = Field(0, ge=0)
    """Seed of the solved examples' choice, and of texts that a task wants sampled."""


def main(params: Params, run: Run, *, models: In, pre: In, definitions: In, scores: Out) -> None:
    """Publish the metrics, abilities and taxes of every model at or below `models`, and those of `pre`, the model before RLHF."""
    require_harness()
    manager = find_tasks(params, definitions)
    places = {BEFORE: pre, **below(models)}
    outs = {name: run.checkpoints.folder / f"{name.replace('/', '-')}.json" for name in places}
    left = {name: out for name, out in outs.items() if not out.exists()}
    preload()
    parts = {name: partial(measure, places[name], manager, params, out) for name, out in left.items()}
    side_by_side(parts, params.threads, run.progress(len(left), "models"))
    publish_json(scores, summary({name: read(out) for name, out in outs.items()}, params.abilities))
    run.checkpoints.clear()


def require_harness() -> None:
    """Raise UserError where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("the stage harness needs lm-eval, which is an extra: pip install 'temper[lm-eval]'")


def find_tasks(params: Params, definitions: Path) -> TaskManager:
    """Return lm-eval's catalogue with the task files of `definitions`, every task asked for found and its data loaded once.

    Raises UserError, within seconds where there is no network, for a task that is unknown, has no data, or lacks a metric.
    """
    from lm_eval.tasks import TaskManager

    go_offline_without_hub()
    manager = TaskManager(include_path=str(definitions), include_defaults=False)
    if missing := set(params.tasks) - set(manager.all_tasks):
        manager = TaskManager(include_path=str(definitions))  # reads thousands of files: seconds, and only where they are needed
        missing -= set(manager.all_tasks)
    if missing:
        raise UserError(
            f"harness.tasks: {', '.join(sorted(missing))}: neither a task of lm-eval nor one of a YAML file below {definitions}"
        )
    for name in params.tasks:
        _check_metrics(load_task(manager, name, definitions), params.abilities)
    return manager


def load_task(manager: TaskManager, name: str, definitions: Path) -> Mapping[str, Any]:
    """Return the tasks that a name stands for, by their own names. Raises UserError when the data of one cannot be had."""
    from datasets.exceptions import DatasetsError

    try:
        return manager.load([name])["tasks"]
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"harness.tasks: {name}: its data cannot be had ({' '.join(str(error).split())}); for a task of the hub run it once "
            f"where there is a network, or copy the cache (HF_HOME) from there; for a file below {definitions} mend data_files"
        ) from None


def _check_metrics(tasks: Mapping[str, Any], abilities: Mapping[str, Mapping[str, str]]) -> None:
    for ability, asked in abilities.items():
        for name, metric in asked.items():
            if name in tasks and metric not in (known := tasks[name].aggregation()):
                raise UserError(f"harness.abilities.{ability}.{name}: no metric {metric!r}; it has {', '.join(sorted(known))}")


def go_offline_without_hub() -> None:
    """Where the hub does not answer, let its libraries look in their cache alone, instead of trying again for half a minute."""
    import httpx
    from datasets import config
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except httpx.HTTPError:
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True


def measure(folder: Path, manager: TaskManager, params: Params, out: Path) -> None:
    """Write the metrics of the model in `folder` to the file `out`, whole or not at all."""
    from lm_eval.evaluator import simple_evaluate

    from tasks.evaluate.adapter import Adapter

    set_determinism(params.seed, params.threads)
    model, tokenizer = load_causal(folder)
    found = simple_evaluate(
        Adapter(on_device(model), tokenizer, batch_size=params.batch_size, seed=params.seed),
        tasks=params.tasks,
        task_manager=manager,
        limit=params.limit,
        num_fewshot=params.num_fewshot,
        bootstrap_iters=0,
        log_samples=False,
        random_seed=params.seed,
        numpy_random_seed=params.seed,
        torch_random_seed=params.seed,
        fewshot_random_seed=params.seed,
    )
    publish_json(out, metrics_of(found["results"]))


def metrics_of(results: Mapping[str, Mapping[str, Any]]) -> Metrics:
    """Return lm-eval's finite metrics without their standard errors; a metric after a filter other than none keeps its name."""
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in row.items()
            if "," in metric and "_stderr" not in metric and isinstance(value, int | float) and math.isfinite(value)
        }
        for task, row in results.items()
    }


def read(out: Path) -> Metrics:
    """Return what `measure` wrote."""
    measured: Metrics = json.loads(out.read_text(encoding="utf-8"))
    return measured


def summary(measured: Mapping[str, Metrics], abilities: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return `models` (metrics), `abilities` (in [0, 1]) and `tax` (what the model before RLHF has more of) by model."""
    able = {name: abilities_of(metrics, abilities) for name, metrics in measured.items()}
    before = able[BEFORE]
    tax = {name: {key: before[key] - value for key, value in row.items()} for name, row in able.items() if name != BEFORE}
    return {"models": dict(measured), "abilities": able, "tax": tax}


def abilities_of(metrics: Metrics, abilities: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return the mean over the measured tasks of each ability, each in [0, 1]; an ability without any is left out."""
    values = {
        ability: [_share(metrics, task, metric) for task, metric in asked.items() if task in metrics]
        for ability, asked in abilities.items()
    }
    return {ability: fmean(shares) for ability, shares in values.items() if shares}


def _share(metrics: Metrics, task: str, metric: str) -> float:
    value = metrics[task][metric]
    return value / 100 if metric in IN_PERCENT or f"{task}/{metric}" in IN_PERCENT else value


if __name__ == "__main__":
    run_stage(main)
