"""The claims ledger of this run: the effect that each paper claims, measured over the seeds, and whether it holds here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tasks.evaluate.ledger import LEDGER, Scores
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Params of the claims ledger."""

    section: ClassVar[str] = "claims"
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the interval that decides."""


def main(params: Params, run: Run, *, evaluation: In, out: Out) -> None:
    """Judge every claim by the scores in `evaluation` and publish the ledger."""
    publish_json(out, ledger(LEDGER, {"evaluate": read_scores(evaluation)}, params.confidence))


def read_scores(path: Path) -> Scores:
    """Read a stage's scores. Raises UserError when they are not an object of JSON."""
    try:
        scores: Scores = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} in line {error.lineno}; run the stage that makes it again") from None
    return scores


if __name__ == "__main__":
    run_stage(main)
