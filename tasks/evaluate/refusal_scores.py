"""What a refusing model is worth: right among what it answers, and how much that is; how well its scores rank; whom it refuses.

A number that does not exist is None, never 0: the accuracy of a model that answers nothing says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.evaluate.calibration.binned import ece
from tasks.evaluate.calibration.ranking import auroc, average_precision, average_precision_as_printed
from tasks.evaluate.calibration.selective import accuracy_at_coverage, accuracy_on_answered, aurc, refusal_rate
from tasks.runtime.questions import Question

BINS = 10
"""Equal bins of the calibration error (R-Tuning, section 5.4)."""


@dataclass(frozen=True)
class Said:
    """What one system said to every question of a test; lists are in the questions' order."""

    texts: Sequence[str]
    correct: Sequence[bool]
    willing: Sequence[bool]
    """Whether it answered at all, or refused."""
    confidence: Sequence[float]
    """`answer_conf` of its answers, in [0, 1]."""
    sure: Sequence[float] | None = None
    """Its own probability of being sure, in (0, 1), where it states one."""

    @property
    def ranking(self) -> Sequence[float]:
        """What the system ranks its answers by (R-Tuning, section 4.3): half each where there are both."""
        if self.sure is None:
            return self.confidence
        return [(confidence + sure) / 2 for confidence, sure in zip(self.confidence, self.sure, strict=True)]

    @property
    def stated(self) -> Sequence[float]:
        """How sure it says that it is: its verdict, and without one the probability of its answer."""
        return self.confidence if self.sure is None else self.sure

    @property
    def answer_rate(self) -> float:
        """Share of the questions it answers."""
        return sum(self.willing) / len(self.willing)


def part(said: Said, members: Sequence[bool]) -> Said:
    """Return what a system said to some of the questions."""
    kept = [n for n, member in enumerate(members) if member]

    def of(values: Sequence[Any]) -> list[Any]:
        return [values[n] for n in kept]

    sure = None if said.sure is None else of(said.sure)
    return Said(of(said.texts), of(said.correct), of(said.willing), of(said.confidence), sure)


def answerable(questions: Sequence[Question]) -> dict[str, list[bool]]:
    """Return the members of every set that holds a question with an answer: where right and wrong mean something."""
    names = sorted({question.set for question in questions if question.answers})
    return {name: [question.set == name for question in questions] for name in names}


def measure(said: Said, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the scores of a system on every set that has answers, and whom it refuses among all questions."""
    return {
        "sets": {name: score(part(said, members)) for name, members in answerable(questions).items()},
        "refusal_by_exposure": refusals(said, [question.exposure for question in questions]),
        "refusal_by_set": refusals(said, [question.set for question in questions]),
        "refusal_unanswerable": group_rate(said, [not question.answers for question in questions]),
    }


def score(said: Said) -> dict[str, float | None]:
    """Return the scores of a system on one set.

    `accuracy` is over all questions, `accuracy_on_willing` over those it answers. Average precision is given of `answer_conf`,
    of `sure` and of half each; `ap` is that of what the system ranks by, `ap_printed` the same as the paper prints its formula.
    The calibration error is of `sure` where there is one.
    """
    return {
        "answer_rate": said.answer_rate,
        "accuracy": sum(said.correct) / len(said.correct),
        "accuracy_on_willing": defined(accuracy_on_answered(said.correct, said.willing)),
        "ap": defined(average_precision(said.ranking, said.correct)),
        "ap_printed": defined(average_precision_as_printed(said.ranking, said.correct)),
        "ap_answer": defined(average_precision(said.confidence, said.correct)),
        "ap_sure": None if said.sure is None else defined(average_precision(said.sure, said.correct)),
        "ap_both": None if said.sure is None else defined(average_precision(said.ranking, said.correct)),
        "auroc_answer": defined(auroc(said.confidence, said.correct)),
        "auroc_sure": None if said.sure is None else defined(auroc(said.sure, said.correct)),
        "aurc": defined(aurc(said.ranking, said.correct)),
        "ece": defined(ece(said.stated, said.correct, bins=BINS)),
    }


def refusals(said: Said, groups: Sequence[Any]) -> dict[str, float]:
    """Return the refusal rate of every group of questions; those whose group is None are left out."""
    names = sorted({group for group in groups if group is not None})
    rates = {str(name): group_rate(said, [group == name for group in groups]) for name in names}
    return {name: rate for name, rate in rates.items() if rate is not None}


def group_rate(said: Said, members: Sequence[bool]) -> float | None:
    """Return the refusal rate among some of the questions; None when there are none."""
    willing = [one for one, member in zip(said.willing, members, strict=True) if member]
    return float(refusal_rate(willing)) if willing else None


def matched(rival: Said, answer_rate: float) -> float | None:
    """Return the accuracy of a system that never refuses on its most confident share of the questions."""
    return defined(accuracy_at_coverage(rival.confidence, rival.correct, answer_rate))


def refused_below(rival: Said, other: Said, answer_rate: float) -> float:
    """Return the share of `other` questions of which a system is less confident than of `answer_rate` of its questions.

    So it would refuse, could it but choose one bound of its confidence, and had to answer as much as its rival does.
    """
    ranked = sorted(rival.confidence, reverse=True)
    answered = round(answer_rate * len(ranked))
    bound = ranked[answered - 1] if answered else math.inf
    return sum(confidence < bound for confidence in other.confidence) / len(other.confidence)


def defined(value: Any) -> float | None:
    """Return a score as a number for JSON, None where it does not exist."""
    return None if math.isnan(float(value)) else float(value)
