"""Measures the models of one cell of a study: the same questions as everywhere, so that cells of one study share a plane.

A cell is a folder: one model, or every model somewhere below it, such as a policy's iterations or a sweep of averages.
"""

from __future__ import annotations

from typing import ClassVar

from tasks.evaluate.measure import AskParams, load_judge_of, measure_all, read_questions
from tasks.evaluate.models import below
from tasks.evaluate.table import rows_of
from tasks.runtime.publish import publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

BEFORE = "before"
"""Name of the model before RLHF while it is measured."""


class Params(AskParams):
    """How the models of a study are asked."""

    section: ClassVar[str] = "measured"


def main(params: Params, run: Run, *, models: In, pre: In, reward: In, sets: In, scores: Out) -> None:
    """Publish the row of every model below `models`; without a true judge, rewards are against `pre`, the model before RLHF."""
    judge = load_judge_of(params, sets)
    places = below(models)
    asked = places | ({BEFORE: pre} if judge is None else {})
    measured = measure_all(asked, reward, read_questions(params, sets), judge, params, run)
    rows = rows_of(measured, BEFORE if judge is None else next(iter(places)))
    publish_json(scores, {name: rows[name] for name in places})
    run.checkpoints.clear()


if __name__ == "__main__":
    run_stage(main)
