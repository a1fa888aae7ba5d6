"""How well a model's stated confidence fits what it gets right, and its rationale what it is torn between.

Of a course of iterations the one with the best Brier score on the validation questions is measured, on questions of which neither
stage has seen the entity. Calibration is that of the responses that could be read; the rest is counted, never filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.evaluate.calibration.scores import calibration_scores
from tasks.evaluate.models import ITERATION
from tasks.runtime.confidence import SCALE, Question, Response, is_correct, named, normalise, parse_response
from tasks.runtime.generate import generate
from tasks.runtime.models import load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BINS = 10
"""Equal bins of the ECE, as in SaySelf: with them every confidence but 0 has a bin of its own, which 1 shares with it."""


class Params(StageParams):
    """How a model is asked, and what counts as a competing answer."""

    section: ClassVar[str] = "sayself-eval"
    seed: int = Field(0, ge=0)
    """Seed of the samples."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""
    samples: int = Field(1, ge=1, le=256)
    """Responses to each question; one where the temperature is 0, for all would be equal."""
    temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature; 0 takes the likeliest token."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest response, in tokens."""
    generate_batch: int = Field(256, ge=1)
    """Responses at once: memory against speed. Changes a number only by rounding, but bits all the same."""
    competing: float = Field(0.05, gt=0, le=1)
    """Least share of the untuned model's answers with which one is a competing answer."""


class ClusterRecord(Record):
    """Answers of the untuned model that say the same."""

    qid: str
    size: int = Field(ge=1)
    answer: str


Clusters = Mapping[str, Sequence[ClusterRecord]]


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


def main(params: Params, run: Run, *, models: In, sets: In, out: Out, scores: Out, histogram: Out) -> None:
    """Measure `models` (a model, or a course of iterations) on `sets`/test.jsonl; write its responses to the file `out`."""
    set_determinism(params.seed, params.threads)
    clusters = read_clusters(sets / "clusters.jsonl")
    courses = places(models)
    briers = {name: validate(params, run, place, sets) for name, place in courses.items()} if len(courses) > 1 else {}
    chosen = best(briers) if briers else next(iter(courses))
    asked = ask(params, run, courses[chosen], read_records(sets / "test.jsonl", Question))
    write_records(out, ({"qid": one.question.qid, "text": one.text, **asdict(one.said)} for one in asked))
    found = {**measure(asked), **by_source(asked), **faithfulness(asked, clusters, params.competing)}
    baseline = {f"self_consistency_{name}": value for name, value in self_consistency(asked, clusters).items()}
    publish_curve(histogram, stated(asked))
    publish_json(scores, {"chosen": chosen, "validation_brier": briers, **found, **baseline})


def places(models: Path) -> dict[str, Path]:
    """Return the model folders by name, in order: the folder itself, or its iterations. Raises UserError when there are none."""
    if (models / "config.json").is_file():
        return {models.name: models}
    found = {int(match[1]): place for place in models.glob("iteration-*") if (match := ITERATION.fullmatch(place.name))}
    if not found:
        raise UserError(f"{models}: neither a model folder nor one with iteration-K")
    return {found[number].name: found[number] for number in sorted(found)}


def validate(params: Params, run: Run, place: Path, sets: Path) -> float:
    """Return the Brier score by which a checkpoint is chosen."""
    return selection_brier(ask(params, run, place, read_records(sets / "valid.jsonl", Question)))


def selection_brier(asked: Sequence[Asked]) -> float:
    """Return the mean of (c/10 - I)^2; a response without a confidence counts 1, the worst, so that silence never wins."""
    return fmean(_squared(one.said.confidence, right) for one in asked for right in one.right)


def _squared(confidence: int | None, right: bool) -> float:
    return 1.0 if confidence is None else (confidence / SCALE - right) ** 2


def best(briers: Mapping[str, float]) -> str:
    """Return the name with the lowest Brier score, the first among equals."""
    return min(briers, key=lambda name: briers[name])


def ask(params: Params, run: Run, folder: Path, questions: Sequence[Question]) -> list[Asked]:
    """Return the model's responses to the questions."""
    model, tokenizer = load_causal(folder)
    texts = respond(on_device(model), tokenizer, params, run, [question.prompt for question in questions])
    return [Asked(q, text, parse_response(text)) for q, given in zip(questions, texts, strict=True) for text in given]


def respond(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, params: Params, run: Run, prompts: Sequence[str]
) -> list[list[str]]:
    """Return `samples` responses to each prompt."""
    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=params.seed,
        batch_size=params.generate_batch,
        progress=run.progress(params.samples * len(prompts), "responses"),
    )


def measure(asked: Sequence[Asked]) -> dict[str, float]:
    """Return how many responses can be read, the accuracy of all, and the calibration of those read; without any, no such score.

    A question with several right answers counts once for each. `known_error` is the mean distance of the stated confidence from
    the known chance, where the world tells it.
    """
    read = [one for one in asked if one.said.confidence is not None]
    scores: dict[str, float] = {
        "parse_rate": len(read) / len(asked),
        "all_accuracy": fmean(right for one in asked for right in one.right),
    }
    if not read:
        return scores
    pairs = [(_level(one), right) for one in read for right in one.right]
    levels, right = [level for level, _ in pairs], [right for _, right in pairs]
    scores |= calibration_scores(levels, right, bins=BINS)
    for name, flag in (("conf_pos", True), ("conf_neg", False)):
        if chosen := [level for level, r in pairs if r is flag]:
            scores[name] = fmean(chosen)
    if known := [abs(_level(one) - one.chance) for one in read if one.chance is not None]:
        scores["known_error"] = fmean(known)
    return scores


def _level(one: Asked) -> float:
    assert one.said.confidence is not None
    return one.said.confidence / SCALE


def by_source(asked: Sequence[Asked]) -> dict[str, float]:
    """Return the leading scores of each source of questions, where there are several."""
    sources = list(dict.fromkeys(one.question.source for one in asked))
    scores: dict[str, float] = {}
    for source in sources if len(sources) > 1 else []:
        found = measure([one for one in asked if one.question.source == source])
        scores |= {f"{source}_{name}": found[name] for name in ("accuracy", "brier", "ece", "auroc") if name in found}
    return scores


def faithfulness(asked: Sequence[Asked], clusters: Clusters, least: float) -> dict[str, float]:
    """Return precision and recall of the competing answers that rationales name, against the untuned model's, over all of them.

    Competing are the answers with at least the share `least` of its samples, the stated answer apart. One that is undefined
    (nothing named, nothing to name) is left out.
    """
    hits = said = true = 0
    for one in asked:
        if one.said.rationale is None:
            continue
        given = clusters.get(one.question.qid, ())
        total, own = sum(cluster.size for cluster in given), normalise(one.said.answer or "")
        competing = {normalise(c.answer) for c in given if c.size >= least * total} - {own, ""}
        told = set(named(one.said.rationale, [c.answer for c in given])) - {own}
        hits, said, true = hits + len(told & competing), said + len(told), true + len(competing)
    ratios = {"rationale_precision": (hits, said), "rationale_recall": (hits, true)}
    return {name: part / whole for name, (part, whole) in ratios.items() if whole}


def self_consistency(asked: Sequence[Asked], clusters: Clusters) -> dict[str, float]:
    """Return the leading scores of the untuned model's commonest answer with its share as confidence: a baseline that costs
    as many samples as it has digits."""
    levels, right = [], []
    for question in {one.question.qid: one.question for one in asked}.values():
        if given := clusters.get(question.qid):
            top = max(given, key=lambda cluster: cluster.size)
            levels += [top.size / sum(cluster.size for cluster in given)] * len(question.answers)
            right += [is_correct(top.answer, gold) for gold in question.answers]
    if not levels:
        return {}
    found = calibration_scores(levels, right, bins=BINS)
    return {name: found[name] for name in ("accuracy", "brier", "ece", "auroc") if name in found}


def stated(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return a row for each of the 11 confidences: how often it was stated, and how often the answer was then right."""
    rows = []
    for level in range(SCALE + 1):
        right = [r for one in asked if one.said.confidence == level for r in one.right]
        count = sum(one.said.confidence == level for one in asked)
        rows.append({"confidence": level, "count": count, "accuracy": fmean(right) if right else ""})
    return rows


def read_clusters(path: Path) -> Clusters:
    """Return the clusters of every question by its qid."""
    found: dict[str, list[ClusterRecord]] = {}
    for record in read_records(path, ClusterRecord):
        found.setdefault(record.qid, []).append(record)
    return found


if __name__ == "__main__":
    run_stage(main)
