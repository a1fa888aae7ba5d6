"""Stage `distill-report`: FIRST and its rivals as one page for people, from what `distill-tradeoffs` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.distilled import render
from tasks.evaluate.page.figures import read_curve
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the study's page."""

    section: ClassVar[str] = "distill-report"
    title: str = Field("Trustworthy distillation", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, tradeoffs: In, reliability: In, page: Out) -> None:
    """Write the page from the scores and the reliability diagrams of `distill-tradeoffs`."""
    found = json.loads(tradeoffs.read_text(encoding="utf-8"))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(reliability)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
