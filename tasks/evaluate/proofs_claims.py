"""What the TheoremLlama paper claims of its training and of its rounds, on the share of Atlas's test theorems that are proved.

Its figures are percent of MiniF2F Test (244 theorems, Lean 4 with Mathlib); ours are percent of new theorems of core Lean. They
share a sign, not a scale.
"""

from __future__ import annotations

from typing import Any

from tasks.evaluate.ledger import Claim, Effects, each_seed

PAPER, STAGE, SPLIT = "TheoremLlama", "prove-eval", "test"
NEEDED = 50.0
"""Percent of the test theorems that the pipeline's own prover is to prove."""


def beside(without: str) -> Effects:
    """Return the effects: what the whole method proves minus what it proves without one part; none for a seed without both."""

    def effect(seed: Any) -> float | None:
        if not {"nothing", without} <= seed.keys():
            return None
        return float(seed["nothing"][SPLIT]["cumulative"] - seed[without][SPLIT]["cumulative"])

    return each_seed(effect)


def of_whole(measure: Any) -> Effects:
    """Return the effects: a measure of the whole method in every seed that has it."""
    return each_seed(lambda seed: float(measure(seed["nothing"][SPLIT])) if "nothing" in seed else None)


def _part(claim: str, without: str, published: str) -> Claim:
    metric = f"percent of test theorems proved after all rounds: the whole method minus without {without.replace('_', ' ')}"
    return Claim(PAPER, claim, metric, "up", published, STAGE, beside(without))


THEOREMLLAMA: tuple[Claim, ...] = (
    _part("Words guide the proof.", "words", "MiniF2F Test 33.61 against 17.21, Valid 36.48 against 24.18"),
    _part(
        "Comments between the steps are better than the same words before the proof.",
        "inline_comments",
        "MiniF2F Test 33.61 against 26.23, Valid 36.48 against 26.23",
    ),
    _part("Block training helps.", "blocks", "MiniF2F Test 33.61 against 23.36, Valid 36.48 against 27.87"),
    _part("A curriculum helps.", "curriculum", "MiniF2F Test 33.61 against 25.83, Valid 36.48 against 29.51"),
    Claim(
        paper=PAPER,
        claim="A second round, shown the proofs of the first, proves more.",
        metric="percent of test theorems proved: after all rounds minus after the first",
        direction="up",
        published="MiniF2F Test 31.15 to 33.61, Valid 34.84 to 36.48",
        stage=STAGE,
        effects=of_whole(lambda found: found["cumulative"] - found["first_round"]),
    ),
    Claim(
        paper=PAPER,
        claim="The prover proves at least half of the new theorems of the families it has learned from (our own aim).",
        metric=f"percent of test theorems proved after all rounds, minus {NEEDED:g}",
        direction="up",
        published="not a claim of the paper",
        stage=STAGE,
        effects=of_whole(lambda found: found["cumulative"] - NEEDED),
    ),
)
"""All claims, in the order in which the page shows them."""
