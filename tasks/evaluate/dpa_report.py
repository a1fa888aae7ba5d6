"""Stage `dpa-report`: directional preference alignment as one page for people, and its claims by the rule of the ledger."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.dpa_claims import DPA, STAGE
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.page.steered import render
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the page."""

    section: ClassVar[str] = "dpa-report"
    title: str = Field("Directional preference alignment", min_length=1)
    """What stands above the page."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the interval that decides a claim."""


def main(params: Params, run: Run, *, evaluation: In, rows: In, claims: Out, page: Out) -> None:
    """Judge the claims by the scores of `dpa-eval` and write the page from them and from its rows."""
    found = json.loads(evaluation.read_text(encoding="utf-8"))
    judged = ledger(DPA, {STAGE: found}, params.confidence)
    publish_json(claims, judged)
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(rows), judged), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
