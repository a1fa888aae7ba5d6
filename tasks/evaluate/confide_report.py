"""Stage `confide-report`: SaySelf's stated confidences as one page for people, from what `confide-tradeoffs` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.confided import render
from tasks.evaluate.page.figures import read_curve
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the study's page."""

    section: ClassVar[str] = "confide-report"
    title: str = Field("Stated confidence", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, tradeoffs: In, stated: In, courses: In, page: Out) -> None:
    """Write the page from what `confide-tradeoffs` gathered."""
    found = json.loads(tradeoffs.read_text(encoding="utf-8"))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(stated), read_curve(courses)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
