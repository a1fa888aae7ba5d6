"""The claims ledger of this run: the effect that each paper claims, measured over the seeds, and whether it holds here.

The rule is the same for every claim and was written before any run. With the confidence interval of the mean effect over seeds
(Student's t; effects are differences within a seed, so they are paired):
- yes: the whole interval lies on the claimed side of zero;
- no: it lies on the other side;
- not at this scale: it holds zero, or there are too few seeds for an interval, or this run did not measure it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.evaluate.interval import Interval, t_interval
from tasks.evaluate.ledger import LEDGER, Claim, Scores
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

Verdict = Literal["yes", "no", "not at this scale"]


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


def ledger(claims: Sequence[Claim], scores: Mapping[str, Scores], confidence: float) -> dict[str, Any]:
    """Return the count of each verdict and every claim with what was measured, in order."""
    entries = [entry(claim, claim.effects(scores[claim.stage]), confidence) for claim in claims]
    counts = Counter(each["verdict"] for each in entries)
    told = {verdict.replace(" ", "_"): counts[verdict] for verdict in ("yes", "no", "not at this scale")}
    return {**told, "confidence": confidence, "claims": entries}


def entry(claim: Claim, effects: Sequence[float], confidence: float) -> dict[str, Any]:
    """Return one claim with its effect in every seed, the interval of their mean (null where there is none), and the verdict."""
    interval = t_interval(effects, confidence) if effects else None
    return {
        "paper": claim.paper,
        "claim": claim.claim,
        "metric": claim.metric,
        "direction": claim.direction,
        "published": claim.published,
        "effects": list(effects),
        "mean": interval and interval.mean,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "verdict": verdict(claim, interval),
    }


def verdict(claim: Claim, interval: Interval | None) -> Verdict:
    """Apply the rule of this module."""
    if interval is None or interval.low is None or interval.high is None:
        return "not at this scale"
    low, high = (interval.low, interval.high) if claim.direction == "up" else (-interval.high, -interval.low)
    if low > 0:
        return "yes"
    return "no" if high < 0 else "not at this scale"


if __name__ == "__main__":
    run_stage(main)
