"""The systems that R-Tuning is compared with, each a way to read the answers of the base and the tuned models.

Zhang et al. 2024, sections 3 to 5: Pretrain-T and -W, Vanilla and its -C and -U, R-Tuning and its -R and -U.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Literal, TypedDict

from tasks.evaluate.refusal_scores import Said, answerable, matched, part, refused_below
from tasks.runtime.questions import Question, is_right, normal

BASE = "base"
STATING: tuple[Literal["padding", "unsupervised"], ...] = ("padding", "unsupervised")
"""Variants that give a verdict."""
REFUSING = ("r_tuning", "r_tuning_r", "r_tuning_u")
"""Systems that refuse, each by its own means."""
SPEAKING = (BASE, "vanilla", "replacement")
"""Models whose text may be a refusal; two of them were never taught to refuse."""


class Heard(TypedDict, total=False):
    """What one model says to one question; which of it is asked depends on the model."""

    text: str
    confidence: float
    sure: float
    sure_gold: float
    """The same after the right answer: training has verdicts there, evaluation has them after the model's own."""
    refused: bool
    """Whether its text is one of the refusals."""
    majority: str
    share: float
    """Of the majority among the samples."""


Answers = dict[str, list[Heard]]
"""By model, BASE or a variant, in the questions' order."""


def majority(texts: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent answer and its share; the first in the alphabet among equals."""
    counts = Counter(map(normal, texts))
    best = min(counts, key=lambda text: (-counts[text], text))
    return best, counts[best] / len(texts)


def systems(questions: Sequence[Question], answers: Answers, threshold: float) -> dict[str, Said]:
    """Return what every system of the paper says, by name. R-Tuning-R's answers are those given when it may not refuse."""
    rate = _said_of(questions)
    of = {name: [heard["text"] for heard in heards] for name, heards in answers.items()}
    conf = {name: [heard["confidence"] for heard in heards] for name, heards in answers.items()}
    sure = {name: [heard["sure"] for heard in answers[name]] for name in STATING}
    willing = {name: [one > threshold for one in each] for name, each in sure.items()}
    speaking = {name: [not heard["refused"] for heard in answers[name]] for name in SPEAKING}
    answering = speaking["replacement"]
    majorities = [heard["majority"] for heard in answers["vanilla"]]
    return {
        "pretrain_t": rate(of[BASE], conf[BASE], speaking[BASE]),
        "pretrain_w": rate(of[BASE], conf[BASE], willing["padding"]),
        "pretrain_w_r": rate(of[BASE], conf[BASE], answering),
        "vanilla": rate(of["vanilla"], conf["vanilla"], speaking["vanilla"]),
        "vanilla_c": rate(majorities, [heard["share"] for heard in answers["vanilla"]]),
        "vanilla_u": rate(majorities, sure["unsupervised"]),
        "r_tuning": rate(of["padding"], conf["padding"], willing["padding"], sure["padding"]),
        "r_tuning_r": rate(of["replacement"], conf["replacement"], answering),
        "r_tuning_u": rate(of["unsupervised"], conf["unsupervised"], willing["unsupervised"], sure["unsupervised"]),
    }


def _said_of(questions: Sequence[Question]) -> Callable[..., Said]:
    """Return a maker of `Said` that knows which answers are right, and that who states nothing is willing throughout."""

    def said(
        texts: Sequence[str],
        confidence: Sequence[float],
        willing: Sequence[bool] | None = None,
        sure: Sequence[float] | None = None,
    ) -> Said:
        correct = [is_right(question, text) for question, text in zip(questions, texts, strict=True)]
        return Said(texts, correct, willing or [True] * len(texts), confidence, sure)

    return said


def compared(questions: Sequence[Question], answers: Answers, said: dict[str, Said]) -> dict[str, Any]:
    """Return what stands between systems: Vanilla made as reticent as each that refuses, and sureness after right answers.

    `matched` is, for each set, Vanilla's accuracy on its most confident questions at the answer rate of the other;
    `refusal_matched` whom it would refuse, were it to refuse below one confidence and answer as much of the first set.
    """
    sets = answerable(questions)
    kinds = {name: [question.set == name for question in questions] for name in sorted({question.set for question in questions})}
    vanilla = {name: part(said["vanilla"], members) for name, members in kinds.items()}
    rates = {name: {each: part(said[name], sets[each]).answer_rate for each in sets} for name in REFUSING}
    home = next(iter(sets))
    return {
        "matched": {name: {each: matched(vanilla[each], rate) for each, rate in of.items()} for name, of in rates.items()},
        "refusal_matched": {
            name: {kind: refused_below(vanilla[home], own, of[home]) for kind, own in vanilla.items()}
            for name, of in rates.items()
        },
        **{f"{key}_{name}": mean_of(answers[name], key) for name in STATING for key in ("sure", "sure_gold")},
    }


def mean_of(heards: Sequence[Heard], key: Literal["sure", "sure_gold"]) -> float:
    """Return the mean probability of being sure over the questions; those without a right answer have none after it."""
    return fmean(heard[key] for heard in heards if key in heard)
