"""Stage `refuse-report`: R-Tuning and its rivals as one page for people, from what `refuse-tradeoffs` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.page.refused import Curves, render
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the study's page."""

    section: ClassVar[str] = "refuse-report"
    title: str = Field("Saying what one does not know", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, tradeoffs: In, refusals: In, coverage: In, reliability: In, page: Out) -> None:
    """Write the page from the scores and the curves of `refuse-tradeoffs`."""
    found = json.loads(tradeoffs.read_text(encoding="utf-8"))
    curves = Curves(read_curve(refusals), read_curve(coverage), read_curve(reliability))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, curves), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
