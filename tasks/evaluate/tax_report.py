"""Stage `tax-report`: the alignment-tax study as one page for people, from what `tradeoffs` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.page.study import render
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the study's page."""

    section: ClassVar[str] = "tax-report"
    title: str = Field("The alignment tax", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, tradeoffs: In, fronts: In, page: Out) -> None:
    """Write the page from the scores and the fronts of `tradeoffs`."""
    found = json.loads(tradeoffs.read_text(encoding="utf-8"))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(fronts)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
