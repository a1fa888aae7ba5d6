"""What the SaySelf paper claims of stated confidences, and what its specification says may be asked of them, over seeds.

Every effect compares two models of one seed on the same unseen questions. `quadratic` is SaySelf (stage 2), `stage1` what it
starts from, `linear` stage 2 by the control reward, `bare` stage 1 without rationales, `untuned` the agreement of samples.
"""

from __future__ import annotations

from typing import Any

from tasks.evaluate.ledger import Claim, Effects, each_seed

PAPER, STAGE = "SaySelf", "confide-tradeoffs"
TOLERANCE = 0.02
"""Accuracy that may be lost before it counts as lost."""
CHANCE = 0.5
"""AUROC of a confidence that says nothing."""


def between(metric: str, model: str, other: str, add: float = 0.0) -> Effects:
    """Return the effects: `metric` of one model minus that of another, plus `add`; none for a seed without both numbers."""

    def effect(seed: Any) -> float | None:
        values = [seed["models"].get(name, {}).get(metric) for name in (model, other)]
        return None if None in values else values[0] - values[1] + add

    return each_seed(effect)


def within(model: str, metric: str, other: str | float) -> Effects:
    """Return the effects: one number of a model minus another of its own, or minus a constant; none for a seed without them."""

    def effect(seed: Any) -> float | None:
        found = seed["models"].get(model, {})
        level = found.get(other) if isinstance(other, str) else other
        return None if level is None or metric not in found else found[metric] - level

    return each_seed(effect)


SAYSELF: tuple[Claim, ...] = (
    Claim(
        paper=PAPER,
        claim="Reinforcement by the quadratic reward makes stated confidences fit better than tuning alone.",
        metric="ECE on unseen questions: SaySelf minus stage 1",
        direction="down",
        published="calibration error falls (abstract); dropping the reinforcement makes it worse",
        stage=STAGE,
        effects=between("ece", "quadratic", "stage1"),
    ),
    Claim(
        paper=PAPER,
        claim="The same by a proper score: the Brier score falls (our own check).",
        metric="Brier score on unseen questions: SaySelf minus stage 1",
        direction="down",
        published="not a claim of the paper",
        stage=STAGE,
        effects=between("brier", "quadratic", "stage1"),
    ),
    Claim(
        paper=PAPER,
        claim=f"Task performance is maintained: at most {TOLERANCE:g} of the untuned model's accuracy is lost.",
        metric=f"accuracy: SaySelf minus the untuned model's commonest answer, plus {TOLERANCE:g}",
        direction="up",
        published="task performance is maintained (abstract)",
        stage=STAGE,
        effects=between("all_accuracy", "quadratic", "untuned", TOLERANCE),
    ),
    Claim(
        paper=PAPER,
        claim=f"Of that, reinforcement itself costs at most {TOLERANCE:g} (our own check).",
        metric=f"accuracy: SaySelf minus stage 1, plus {TOLERANCE:g}",
        direction="up",
        published="not a claim of the paper",
        stage=STAGE,
        effects=between("all_accuracy", "quadratic", "stage1", TOLERANCE),
    ),
    Claim(
        paper=PAPER,
        claim="A linear reward polarises: it teaches to state 0 or 10.",
        metric="share of confidences that are 0 or 10: linear minus quadratic reward",
        direction="up",
        published="the ablation of the reward; its optimum is 10 above an even chance and 0 below",
        stage=STAGE,
        effects=between("certain", "linear", "quadratic"),
    ),
    Claim(
        paper=PAPER,
        claim="The stated confidence tells right answers from wrong ones.",
        metric="AUROC of SaySelf's confidence minus that of chance",
        direction="up",
        published="AUROC above that of all rivals (table)",
        stage=STAGE,
        effects=within("quadratic", "auroc", CHANCE),
    ),
    Claim(
        paper=PAPER,
        claim="Rationales help calibration.",
        metric="ECE after stage 1: with rationales minus without",
        direction="down",
        published="rationales further help calibration (abstract)",
        stage=STAGE,
        effects=between("ece", "stage1", "bare"),
    ),
    Claim(
        paper=PAPER,
        claim="Rationales name what the model is really torn between.",
        metric="precision of the competing answers they name, minus their precision against other questions of the same kind",
        direction="up",
        published="rationales are faithful (judged by a language model, table)",
        stage=STAGE,
        effects=within("quadratic", "rationale_precision", "rationale_by_chance"),
    ),
)
"""All claims, in the order in which the page shows them."""
