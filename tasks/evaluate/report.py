"""Stage `report`: what the run found, as one JSON for machines and one page for people.

The summary holds what was measured and nothing else, so it is an out. The page adds what is true of this run alone: the
change against the last one, how long each stage took, on what and from which commit. It is one file without scripts or
requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tasks.evaluate.page.changes import keep, last_different, read_kept
from tasks.evaluate.page.figures import Rows, read_curve
from tasks.evaluate.page.page import Findings, render
from tasks.evaluate.page.pipeline import HISTORY, Stage, stages_of, with_records
from tasks.evaluate.page.studies import read_studies
from tasks.evaluate.page.summary import summarise
from tasks.runtime.params import PARAMS_FILE, StageParams, UserError, read_yaml
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import WORK, In, Out, Run, run_stage

TRAINED = ("sft", "reward", "raft")
SCORED = ("sft", "preferences", "reward", "raft", "average")
"""Stages between the base model and the evaluation whose scores are shown."""
DEFINITION = Path("dvc.yaml")
KEPT = WORK / "report" / "previous.json"


class Params(StageParams):
    """Params of the report."""

    section: ClassVar[str] = "report"
    title: str = Field("Temper", min_length=1)
    """What stands above the page."""
    samples: int = Field(4, ge=0)
    """Prompts, and questions of each skill, whose answers are shown."""


def main(params: Params, run: Run, *, base_scores: In, scores: In, generations: In, out: Out, page: Out) -> None:
    """Publish the summary of the scores in `scores` to `out` and the page to `page`; `base_scores` are the base model's."""
    sources = {base_scores.stem: base_scores, **{name: scores / f"{name}.json" for name in SCORED}}
    stages = {name: read_json(path) for name, path in sources.items()}
    evaluation, claims = read_json(scores / "evaluate.json"), read_json(scores / "claims.json")
    summary = summarise(stages, evaluation, claims)
    publish_json(out, summary)
    previous, kept = last_different(KEPT, summary), read_kept(KEPT)
    pipeline = with_records(read_pipeline(run.stage), HISTORY, kept.get("finished", {}))
    findings = Findings(
        summary=summary,
        previous=previous,
        evaluation=evaluation,
        front=read_curve(scores / "front.csv"),
        curves=read_curves(base_scores, scores),
        generations=read_generations(generations),
        pipeline=pipeline,
        studies=read_studies(page.parent),
        params={name: section for name, section in read_yaml(PARAMS_FILE).items() if isinstance(section, Mapping)},
    )
    with publish(page) as draft:
        draft.write_text(render(findings, params.title, params.samples), encoding="utf-8")
    keep(KEPT, summary, previous, {stage.name: stage.record["finished"] for stage in pipeline if stage.record})


def read_json(path: Path) -> dict[str, Any]:
    """Read a stage's scores. Raises UserError when they are missing or damaged."""
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it first") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} in line {error.lineno}; run the stage that makes it again") from None
    return scores


def read_curves(base_scores: Path, scores: Path) -> dict[str, Rows]:
    """Return the learning curves by stage; a base model that was brought in has none."""
    paths = [base_scores.with_suffix(".csv"), *(scores / f"{name}.csv" for name in TRAINED)]
    return {path.stem: read_curve(path) for path in paths if path.exists()}


def read_generations(path: Path) -> list[dict[str, Any]]:
    """Return the answers kept for reading; there may be none."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_pipeline(target: str) -> list[Stage]:
    """Return the stages up to `target` as dvc.yaml and the params in effect define them; none away from a checkout."""
    if not DEFINITION.is_file():
        return []
    return stages_of(read_yaml(DEFINITION), read_yaml(PARAMS_FILE), target)


if __name__ == "__main__":
    run_stage(main)
