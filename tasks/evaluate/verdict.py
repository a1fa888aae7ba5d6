"""Whether a paper's claim holds in this run: one rule for all claims, written before any run.

With the confidence interval of the mean effect over seeds (Student's t; effects are differences within a seed, so they are
paired):
- yes: the whole interval lies on the claimed side of zero;
- no: it lies on the other side;
- not at this scale: it holds zero, or there are too few seeds for an interval, or this run did not measure it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.evaluate.interval import Interval, t_interval
from tasks.evaluate.ledger import Claim, Scores

Verdict = Literal["yes", "no", "not at this scale"]


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
