"""Finds out what a model knows, and writes what R-Tuning learns from it (Zhang et al. 2024, section 3).

The untuned model is asked every training question: what it answers rightly is D1, the rest D0. From the same split come all
four sets of training rows: the gold answers alone, with a verdict after each, with D0's answers replaced by a refusal, and with
verdicts from the entropy of samples, which need no gold answers.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.data.questions.sources import read_source
from tasks.runtime.asking import TEMPERATURE, Asker, asker, resumable
from tasks.runtime.models import load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.questions import UNNAMED, Question, is_right, normal
from tasks.runtime.records import Record, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import REFUSALS, SENTENCE, SURE, UNSURE, VARIANTS, Variant, encode_answer, ended

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Params(StageParams):
    """Where the questions come from and how the untuned model is asked."""

    section: ClassVar[str] = "refusal-data"
    seed: int = Field(0, ge=0)
    """Seed of the split, the samples, the choice of refusals and of equal entropies."""
    source: Literal["atlas", "open", "triples", "instructions", "mmlu", "claims", "hotpot"] = "atlas"
    """Layout of the files, see `tasks.data.questions.sources`."""
    limit: int = Field(0, ge=0)
    """Most questions that are taken of the source, drawn by the seed; 0 takes all."""
    samples: int = Field(10, ge=2, le=100)
    """Sampled answers to a question, whose entropy is the uncertainty of the unsupervised variant."""
    temperature: float = Field(TEMPERATURE, gt=0, le=2)
    """Of those samples."""
    refusals: int = Field(len(REFUSALS), ge=1, le=len(REFUSALS))
    """Refusal texts of the replacement variant, the first so many; a tiny model does not learn sixteen to their end."""
    max_new_tokens: int = Field(15, ge=1, le=256)
    """Tokens of an answer, in which the right one must occur."""
    batch_size: int = Field(64, ge=1)
    """Questions asked together."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


class Identified(Record):
    """What the untuned model makes of a training question."""

    qid: str
    question: str
    gold: str
    pred: str
    known: bool
    """Whether `pred` is right: D1, else D0."""
    entropy: float
    """Of the sampled answers, in nats."""


class Row(Record):
    """A training row; `completion` is `answer`, and where there is a verdict the sentence and the verdict behind it."""

    prompt: str
    completion: str
    answer: str
    verdict: str | None
    qid: str
    set: Literal["D1", "D0"]


def main(params: Params, run: Run, *, model: In, questions: In, out: Out, scores: Out) -> None:
    """Write `out`: identify.jsonl, test.jsonl and VARIANT/train.jsonl for every variant."""
    set_determinism(params.seed, params.threads)
    training, test = split(drawn(read_source(params.source, questions), params), params.seed)
    weights, tokenizer = load_causal(model)
    asked = asker(on_device(weights.float()), tokenizer, params.max_new_tokens, params.batch_size)
    check_answers(asked.tokenizer, training, test)
    found = identify(asked, training, params, run)
    check_both(found)
    with publish(out) as draft:
        write_records(draft / "identify.jsonl", found)
        write_records(draft / "test.jsonl", test)
        for variant in VARIANTS:
            write_records(draft / variant / "train.jsonl", rows(variant, training, found, params.seed, params.refusals))
    publish_json(scores, describe(found, test))
    run.checkpoints.clear()


def drawn(questions: list[Question], params: Params) -> list[Question]:
    """Return the questions that are taken, in the order of their source."""
    if not params.limit or params.limit >= len(questions):
        return questions
    kept = random.Random(params.seed).sample(range(len(questions)), params.limit)
    return [questions[n] for n in sorted(kept)]


def split(questions: Sequence[Question], seed: int) -> tuple[list[Question], list[Question]]:
    """Return training and test questions; a test question's `set` is `in` or `out`: of a subject that training has, or not.

    Where the source does not say what is for training, it is half the questions, drawn by the seed, of the first half of the
    subjects (section 4.1). A question that nobody can answer and whose source gives it a set of its own keeps that.
    Raises UserError when one of the two is empty.
    """
    if questions[0].training is not None:
        training = [one for one in questions if one.training]
        inside = {question.subject for question in training}
    else:
        subjects = sorted({question.subject for question in questions})
        inside = set(subjects[: (len(subjects) + 1) // 2])
        home = sorted((one for one in questions if one.subject in inside), key=lambda one: one.id)
        training = random.Random(seed).sample(home, (len(home) + 1) // 2)
    taken = {question.id for question in training}
    test = [one.model_copy(update={"set": _domain(one, inside)}) for one in questions if one.id not in taken]
    if not training or not test:
        raise UserError(f"{len(questions)} questions make {len(training)} for training and {len(test)} for the test; give more")
    return training, test


def _domain(question: Question, inside: Set[str]) -> str:
    if not question.answers and question.set != UNNAMED:
        return question.set
    return "in" if question.subject in inside else "out"


def check_answers(tokenizer: PreTrainedTokenizerBase, training: Sequence[Question], test: Sequence[Question]) -> None:
    """Raise UserError for a training question without an answer, and for an answer that the model has no tokens for."""
    if silent := [question.id for question in training if not question.answers]:
        raise UserError(f"{len(silent)} training questions have no answer, {silent[0]!r} first; add one, or drop them")
    for question in (*training, *test):
        for answer in question.answers:
            ids = encode_answer(tokenizer, answer)
            if not ids or tokenizer.unk_token_id in ids:
                raise UserError(
                    f"question {question.id!r}: the model's tokenizer cannot write its answer {answer!r}, so it would count as "
                    "unknown for ever; leave it out, or use a model with these words"
                )


def identify(asked: Asker, questions: Sequence[Question], params: Params, run: Run) -> list[Identified]:
    """Ask the untuned model every question, greedily and by samples; one record a question, in their order."""

    def ask(portion: list[Question]) -> list[dict[str, Any]]:
        drawn = asked.sampled(portion, params.samples, params.temperature, params.seed)
        replies = asked.replies(portion)
        return [{"pred": reply["text"], "entropy": entropy(texts)} for reply, texts in zip(replies, drawn, strict=True)]

    return [
        Identified(
            qid=question.id,
            question=question.prompt,
            gold=question.answers[0],
            known=is_right(question, str(found["pred"])),
            **found,
        )
        for question, found in zip(questions, resumable(run, "identify", questions, ask), strict=True)
    ]


def entropy(texts: Sequence[str]) -> float:
    """Return `-sum_j p_j ln p_j` over the different answers among samples, in nats (section 3.4)."""
    shares = [count / len(texts) for count in Counter(map(normal, texts)).values()]
    return abs(math.fsum(share * math.log(share) for share in shares))


def check_both(found: Sequence[Identified]) -> None:
    """Raise UserError when the model knows everything or nothing: there is then no line to learn."""
    known = sum(one.known for one in found)
    if known in (0, len(found)):
        which, remedy = ("all", "harder ones") if known else ("none", "easier ones, or a model that knows more")
        raise UserError(f"the model knows {which} of the {len(found)} training questions: no difference to learn; ask {remedy}")


def unsure(found: Sequence[Identified], seed: int) -> set[str]:
    """Return the ids of the more uncertain half by entropy; among equals the seed decides, and an odd one out is sure."""
    draw = random.Random(seed)
    ranked = sorted(found, key=lambda one: one.qid)
    draw.shuffle(ranked)
    ranked.sort(key=lambda one: -one.entropy)
    return {one.qid for one in ranked[: len(ranked) // 2]}


def rows(
    variant: Variant, questions: Sequence[Question], found: Sequence[Identified], seed: int, refusals: int = len(REFUSALS)
) -> list[Row]:
    """Return the training rows of a variant, one a question."""
    doubtful = unsure(found, seed) if variant == "unsupervised" else {one.qid for one in found if not one.known}
    draw = random.Random(seed)
    return [
        _row(variant, question, one, one.qid in doubtful, draw.choice(REFUSALS[:refusals]))
        for question, one in zip(questions, found, strict=True)
    ]


def _row(variant: Variant, question: Question, found: Identified, doubtful: bool, refusal: str) -> Row:
    answer = ended(refusal if variant == "replacement" and doubtful else found.gold)
    verdict = (UNSURE if doubtful else SURE) if variant in ("padding", "unsupervised") else None
    completion = f"{answer} {SENTENCE} {verdict}" if verdict else answer
    return Row(
        prompt=question.prompt,
        completion=completion,
        answer=answer,
        verdict=verdict,
        qid=found.qid,
        set="D1" if found.known else "D0",
    )


def describe(found: Sequence[Identified], test: Sequence[Question]) -> dict[str, float]:
    """Return the size of the sets, the share of D0, and the mean entropy of both."""
    unknown = [one.entropy for one in found if not one.known]
    known = [one.entropy for one in found if one.known]
    return {
        "training": len(found),
        "test": len(test),
        "d0_share": len(unknown) / len(found),
        "entropy_d0": math.fsum(unknown) / len(unknown),
        "entropy_d1": math.fsum(known) / len(known),
    }


if __name__ == "__main__":
    run_stage(main)
