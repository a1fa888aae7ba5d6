"""What the R-Tuning paper claims of a model that may refuse, and what its specification says may be asked of it.

Every effect compares systems of one seed on the same questions: those of training's relations about entities that training does
not name, unless the metric says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from tasks.evaluate.ledger import Claim, Effects, Scores, each_seed

PAPER, STAGE = "R-Tuning", "refuse-tradeoffs"
OURS = "not a claim of the paper"
SEEN = 8
"""Facts told at least this often count as seen often."""
HOME, AWAY = "in", "out"
SILENT = ("unheard name", "false premise")
"""Sets of questions that nobody can answer."""


def scored(system: str, metric: str, where: str = HOME) -> Callable[[Scores], Any]:
    """Return how to read a score of a system on a set; it is None where it does not exist."""
    return lambda seed: seed["systems"][system]["sets"][where][metric]


def between(one: Callable[[Scores], Any], other: Callable[[Scores], Any]) -> Effects:
    """Return the effects: one number minus another; none for a seed in which either does not exist."""

    def effect(seed: Scores) -> float | None:
        a, b = one(seed), other(seed)
        return None if a is None or b is None else a - b

    return each_seed(effect)


def unseen_minus_seen(system: str) -> Effects:
    """Return the effects: the refusal rate of facts never told minus that of facts told SEEN times or more."""

    def effect(seed: Scores) -> float | None:
        rates = {int(times): rate for times, rate in seed["systems"][system]["refusal_by_exposure"].items()}
        often = [rate for times, rate in rates.items() if times >= SEEN]
        return rates[0] - fmean(often) if often and 0 in rates else None

    return each_seed(effect)


def silent(system: str) -> Callable[[Scores], float]:
    """Return how to read the mean refusal rate of the sets that nobody can answer."""
    return lambda seed: fmean(seed["systems"][system]["refusal_by_set"][kind] for kind in SILENT)


def silent_matched(seed: Scores) -> float:
    """Return whom Vanilla would refuse of these sets, did it refuse below one confidence and answer as much as R-Tuning-R."""
    return fmean(seed["compared"]["refusal_matched"]["r_tuning_r"][kind] for kind in SILENT)


R_TUNING: tuple[Claim, ...] = (
    Claim(
        paper=PAPER,
        claim="A model that also says whether it is sure ranks its answers better than one fine-tuned on answers alone.",
        metric="average precision: R-Tuning (answer and verdict, half each) minus Vanilla",
        direction="up",
        published="ParaRel, 3B, 7B, 13B: 93.23, 93.64, 94.44 against 92.89, 93.32, 94.00",
        stage=STAGE,
        effects=between(scored("r_tuning", "ap"), scored("vanilla", "ap")),
    ),
    Claim(
        paper=PAPER,
        claim="So it does on kinds of questions that tuning never showed.",
        metric="average precision on the relation left out of training: R-Tuning minus Vanilla",
        direction="up",
        published="ParaRel out of domain: 69.41, 74.61, 77.30 against 68.42, 78.08, 64.12",
        stage=STAGE,
        effects=between(scored("r_tuning", "ap", AWAY), scored("vanilla", "ap", AWAY)),
    ),
    Claim(
        paper=PAPER,
        claim="A model taught to refuse is right more often where it answers than a fine-tuned one is in all.",
        metric="accuracy of R-Tuning-R on what it answers minus accuracy of Vanilla",
        direction="up",
        published="ParaRel: 82.79, 85.95, 87.06 (answering 44 %) against 60.58, 63.72, 66.53",
        stage=STAGE,
        effects=between(scored("r_tuning_r", "accuracy_on_willing"), scored("vanilla", "accuracy")),
    ),
    Claim(
        paper=PAPER,
        claim="It is right more often than the untuned model is on the same questions.",
        metric="accuracy on what R-Tuning-R answers: its own minus the untuned model's",
        direction="up",
        published="ParaRel: 82.79, 85.95, 87.06 against 71.48, 72.23, 78.51",
        stage=STAGE,
        effects=between(scored("r_tuning_r", "accuracy_on_willing"), scored("pretrain_w_r", "accuracy_on_willing")),
    ),
    Claim(
        paper=PAPER,
        claim="Taught by its own uncertainty, without right and wrong, a model ranks better than by agreement of samples.",
        metric="average precision: R-Tuning-U minus Vanilla-C",
        direction="up",
        published="ParaRel: 93.33, 94.39, 95.39 against 88.53, 87.92, 89.40",
        stage=STAGE,
        effects=between(scored("r_tuning_u", "ap"), scored("vanilla_c", "ap")),
    ),
    Claim(
        paper=PAPER,
        claim="And it is better calibrated.",
        metric="expected calibration error, 10 bins: R-Tuning-U's verdict minus Vanilla-C's share of samples",
        direction="down",
        published="ParaRel: .018, .057, .064 against .255, .250, .228",
        stage=STAGE,
        effects=between(scored("r_tuning_u", "ece"), scored("vanilla_c", "ece")),
    ),
    Claim(
        paper=PAPER,
        claim="It refuses questions that nobody can answer.",
        metric="refusal rate, mean of unheard names and false premises: R-Tuning minus Vanilla",
        direction="up",
        published="FalseQA, NEC, SelfAware, 3B: 87.32, 95.72, 90.99 against 2.07, 0.96, 5.23",
        stage=STAGE,
        effects=between(silent("r_tuning"), silent("vanilla")),
    ),
    Claim(
        paper=PAPER,
        claim="What a model does not know, it answers with more different samples.",
        metric="mean entropy of ten samples, in nats: unknown minus known training questions",
        direction="up",
        published="entropy lower on what is known in most cells (table)",
        stage=STAGE,
        effects=between(lambda seed: seed["world"]["entropy_d0"], lambda seed: seed["world"]["entropy_d1"]),
    ),
    Claim(
        paper=PAPER,
        claim="A model taught to refuse refuses what it never saw (our own check).",
        metric=f"refusal rate of R-Tuning-R: facts never told minus facts told {SEEN} times or more",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=unseen_minus_seen("r_tuning_r"),
    ),
    Claim(
        paper=PAPER,
        claim="It refuses where it would be wrong (our own check).",
        metric="accuracy of R-Tuning-R: on what it answers minus on all when it may not refuse",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=between(scored("r_tuning_r", "accuracy_on_willing"), scored("r_tuning_r", "accuracy")),
    ),
    Claim(
        paper=PAPER,
        claim="The verdict refuses what was never told (our own check).",
        metric=f"refusal rate of R-Tuning: facts never told minus facts told {SEEN} times or more",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=unseen_minus_seen("r_tuning"),
    ),
    Claim(
        paper=PAPER,
        claim="The verdict tells right answers from wrong ones (our own check).",
        metric="AUROC of R-Tuning's verdict minus one half",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=between(scored("r_tuning", "auroc_sure"), lambda seed: 0.5),
    ),
    Claim(
        paper=PAPER,
        claim="Refusing beats silence by low confidence (our own check).",
        metric="accuracy: R-Tuning-R on what it answers minus Vanilla on as many of its most confident answers",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=between(
            scored("r_tuning_r", "accuracy_on_willing"), lambda seed: seed["compared"]["matched"]["r_tuning_r"][HOME]
        ),
    ),
    Claim(
        paper=PAPER,
        claim="It beats it on what nobody can answer as well (our own check).",
        metric="refusal rate there: R-Tuning-R minus Vanilla below the confidence at which both answer as much in domain",
        direction="up",
        published=OURS,
        stage=STAGE,
        effects=between(silent("r_tuning_r"), silent_matched),
    ),
)
"""All claims, in the order in which the page shows them."""
