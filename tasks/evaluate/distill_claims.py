"""What the FIRST paper claims of a distilled student, and what its specification says may be asked of it, on the mean over seeds.

Every effect compares two students of one seed, which learned the same questions from the same teacher. `trustworthy` is FIRST,
`renormalised` the raw top-k cut off and no more, `hard` standard fine-tuning on the answers.
"""

from __future__ import annotations

from typing import Any

from tasks.evaluate.ledger import Claim, Effects, each_seed

PAPER, STAGE = "FIRST", "distill-tradeoffs"
TOLERANCE = 0.01
"""Accuracy that may be lost against fine-tuning before quality counts as lost."""


def between(metric: str, student: str, other: str, add: float = 0.0) -> Effects:
    """Return the effects: `metric` of one student minus that of another, plus `add`; none for a seed without both."""

    def effect(seed: Any) -> float | None:
        models = seed["models"]
        return models[student][metric] - models[other][metric] + add if {student, other} <= models.keys() else None

    return each_seed(effect)


FIRST: tuple[Claim, ...] = (
    Claim(
        paper=PAPER,
        claim="Recalibrating the teacher's top 5 makes a better calibrated student than the raw top 5.",
        metric="expected ECE on the noisy facts: FIRST minus raw top 5",
        direction="down",
        published="not printed in the abstract; the step exists for it",
        stage=STAGE,
        effects=between("ece", "trustworthy", "renormalised"),
    ),
    Claim(
        paper=PAPER,
        claim="The student is better calibrated than one that is fine-tuned.",
        metric="expected ECE on the noisy facts: FIRST minus fine-tuning",
        direction="down",
        published="miscalibration −10 % on average (abstract)",
        stage=STAGE,
        effects=between("ece", "trustworthy", "hard"),
    ),
    Claim(
        paper=PAPER,
        claim=f"It costs no more than {TOLERANCE:g} of fine-tuning's accuracy.",
        metric=f"accuracy: FIRST minus fine-tuning, plus {TOLERANCE:g}",
        direction="up",
        published="accuracy +2.3 % on average (abstract)",
        stage=STAGE,
        effects=between("accuracy", "trustworthy", "hard", TOLERANCE),
    ),
    Claim(
        paper=PAPER,
        claim="Cut off and no more, the top 5 calibrate worse than fine-tuning (our own check).",
        metric="expected ECE on the noisy facts: raw top 5 minus fine-tuning",
        direction="up",
        published="not a claim of the paper",
        stage=STAGE,
        effects=between("ece", "renormalised", "hard"),
    ),
    Claim(
        paper=PAPER,
        claim="FIRST's confidence is nearer to the best there is than that of the raw top 5 (our own check).",
        metric="mean distance to the Bayes-optimal confidence: FIRST minus raw top 5",
        direction="down",
        published="not a claim of the paper",
        stage=STAGE,
        effects=between("confidence_error", "trustworthy", "renormalised"),
    ),
)
"""All claims, in the order in which the page shows them."""
