"""Stage `prove-report`: what the provers proved as one page for people, from what `prove-eval` found."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.page.proved import render
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the study's page."""

    section: ClassVar[str] = "proofs-report"
    title: str = Field("Theorem proving", min_length=1)
    """What stands above the page."""


def main(params: Params, run: Run, *, proofs: In, rounds: In, page: Out) -> None:
    """Write the page from the scores of `prove-eval` and its shares by round."""
    found = json.loads(proofs.read_text(encoding="utf-8"))
    with publish(page) as draft:
        draft.write_text(render(params.title, found, read_curve(rounds)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
