"""Stage `honest-report`: the whole chain as one table for people, from what `honest-tradeoffs` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.chained import render
from tasks.evaluate.page.figures import read_curve
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the chain's page."""

    section: ClassVar[str] = "honest-report"
    title: str = Field("From aligned to honest, calibrated and small", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, tradeoffs: In, refusals: In, reliability: In, page: Out) -> None:
    """Write the page from the scores, the refusals by exposure and the reliability diagrams of `honest-tradeoffs`."""
    found = json.loads(tradeoffs.read_text(encoding="utf-8"))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(refusals), read_curve(reliability)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
