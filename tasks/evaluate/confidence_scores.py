"""What responses with a stated confidence are worth: calibration of what could be read, faithfulness of what was named.

Every question weighs the same, also one with several right answers (draws of a fact that is drawn anew each time). What could not
be read is counted, never filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import Field

from tasks.evaluate.calibration.scores import calibration_scores
from tasks.runtime.confidence import (
    SCALE,
    Question,
    Response,
    agreement,
    is_correct,
    named,
    normalise,
    parse_response,
    write_response,
)
from tasks.runtime.records import Record

BINS = 10
"""Equal bins of the ECE, as in SaySelf: with them every confidence but 0 has a bin of its own, which 1 shares with it."""
LEADING = ("accuracy", "brier", "ece", "auroc")


class ClusterRecord(Record):
    """Answers of the untuned model that say the same."""

    qid: str
    size: int = Field(ge=1)
    answer: str


Clusters = Mapping[str, Sequence[ClusterRecord]]
"""The clusters of every question by its qid."""


@dataclass(frozen=True)
class Asked:
    """A response of the model."""

    question: Question
    text: str
    said: Response

    @property
    def right(self) -> list[bool]:
        """Whether the answer is right, for each of the question's right answers."""
        return [is_correct(self.said.answer, gold) for gold in self.question.answers]

    @property
    def chance(self) -> float | None:
        """The known chance that the answer is right, if the world tells."""
        chances = self.question.chances
        return None if chances is None else chances.get(normalise(self.said.answer or ""), 0.0)


def measure(asked: Sequence[Asked]) -> dict[str, float]:
    """Return how many responses can be read, the accuracy of all, and the calibration of those read; without any, no such score.

    `certain` is the share of confidences that are 0 or 10; `known_error` the mean distance of the stated confidence from the
    known chance, where the world tells it.
    """
    read = [one for one in asked if one.said.confidence is not None]
    scores: dict[str, float] = {
        "parse_rate": len(read) / len(asked),
        "all_accuracy": fmean(fmean(one.right) for one in asked),
    }
    if not read:
        return scores
    pairs = weighed(read)
    levels, right = [level for level, _ in pairs], [right for _, right in pairs]
    scores |= calibration_scores(levels, right, bins=BINS) | {"answers": len(read)}
    scores["certain"] = fmean(one.said.confidence in (0, SCALE) for one in read)
    for name, flag in (("conf_pos", True), ("conf_neg", False)):
        if chosen := [level for level, r in pairs if r is flag]:
            scores[name] = fmean(chosen)
    if known := [abs(_level(one) - one.chance) for one in read if one.chance is not None]:
        scores["known_error"] = fmean(known)
    return scores


def weighed(read: Sequence[Asked]) -> list[tuple[float, bool]]:
    """Return (confidence, right) of every response and right answer, repeated so that every response has equally many pairs."""
    times = math.lcm(*(len(one.right) for one in read))
    return [(_level(one), right) for one in read for right in one.right for _ in range(times // len(one.right))]


def _level(one: Asked) -> float:
    assert one.said.confidence is not None
    return one.said.confidence / SCALE


def by_source(asked: Sequence[Asked]) -> dict[str, float]:
    """Return the leading scores of each source of questions, where there are several."""
    sources = list(dict.fromkeys(one.question.source for one in asked))
    scores: dict[str, float] = {}
    for source in sources if len(sources) > 1 else []:
        found = measure([one for one in asked if one.question.source == source])
        scores |= {f"{source}_{name}": found[name] for name in LEADING if name in found}
    return scores


def faithfulness(asked: Sequence[Asked], clusters: Clusters, least: float) -> dict[str, float]:
    """Return precision and recall of the competing answers that rationales name, against the untuned model's, over all of them.

    Competing are the answers with at least the share `least` of its samples, the stated answer apart. `rationale_by_chance` is
    the precision of the same rationales against every other question that was also given the stated answer: what naming answers
    of the right kind earns. A ratio that is undefined (nothing named, nothing to name) is left out.
    """
    hits = said = true = lucky = tried = 0
    for one in asked:
        if one.said.rationale is None:
            continue
        told, competing = named_and_competing(one, clusters.get(one.question.qid, ()), least)
        hits, said, true = hits + len(told & competing), said + len(told), true + len(competing)
        for qid in {other.question.qid for other in asked} - {one.question.qid}:
            given = clusters.get(qid, ())
            if told and normalise(one.said.answer or "") in {normalise(c.answer) for c in given}:
                _, others = named_and_competing(one, given, least)
                lucky, tried = lucky + len(told & others), tried + len(told)
    ratios = {"rationale_precision": (hits, said), "rationale_recall": (hits, true), "rationale_by_chance": (lucky, tried)}
    return {name: part / whole for name, (part, whole) in ratios.items() if whole}


def named_and_competing(one: Asked, given: Sequence[ClusterRecord], least: float) -> tuple[set[str], set[str]]:
    """Return the other answers that a rationale names, and those of `given` that have a share of at least `least`."""
    total, own = sum(cluster.size for cluster in given), normalise(one.said.answer or "")
    competing = {normalise(c.answer) for c in given if c.size >= least * total} - {own, ""}
    return set(named(one.said.rationale or "", [c.answer for c in given])) - {own}, competing


def self_consistency(questions: Sequence[Question], clusters: Clusters) -> list[Asked]:
    """Return the untuned model's commonest answer to each question, stated with its share of the samples as confidence.

    A baseline that costs a hundred samples for each answer, and whose confidence is the label that stage 1 learns to state.
    """
    found = []
    for question in questions:
        if given := clusters.get(question.qid):
            top = max(given, key=lambda cluster: cluster.size)
            text = write_response(top.answer, "", agreement(top.size, sum(cluster.size for cluster in given)))
            found.append(Asked(question, text, parse_response(text)))
    return found


def share(one: Asked, clusters: Clusters) -> float:
    """Return the share of the untuned model's samples that give the stated answer."""
    given = clusters.get(one.question.qid, ())
    same = sum(cluster.size for cluster in given if normalise(cluster.answer) == normalise(one.said.answer or ""))
    return same / max(1, sum(cluster.size for cluster in given))


def stated(asked: Sequence[Asked], clusters: Clusters) -> list[dict[str, Any]]:
    """Return a row for each of the 11 confidences: how often it was stated, how often the answer was then right, and which share
    of the untuned model's samples gave that answer."""
    rows: list[dict[str, Any]] = []
    for level in range(SCALE + 1):
        mine = [one for one in asked if one.said.confidence == level]
        accuracy = fmean(fmean(one.right) for one in mine) if mine else ""
        agreed = fmean(share(one, clusters) for one in mine) if mine else ""
        rows.append({"confidence": level, "count": len(mine), "accuracy": accuracy, "share": agreed})
    return rows
