"""Measures every step of the whole chain on the same questions and prompts: what it answers, refuses and states, and its reward.

The questions are about entities that no step learned from. Until a model states its confidence, it is that of its own words: the
geometric mean of their probabilities. Calibration is that of the answers given; a refusal is counted and never scored.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from tasks.evaluate.calibration.binned import reliability_rows
from tasks.evaluate.calibration.scores import calibration_scores
from tasks.runtime.asking import asker
from tasks.runtime.confidence import SCALE, is_correct, parse_response
from tasks.runtime.generate import generate
from tasks.runtime.judges import Judge, load_judge
from tasks.runtime.models import load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.questions import Question, read_questions
from tasks.runtime.records import Prompt, read_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import first_sentence, refuses

STEPS = ("aligned", "refusing", "stating", "truthful", "student")
"""The models in the order of the chain: as it came, after R-Tuning, after SaySelf's two stages, and distilled."""
BINS = 10
STATED = ("accuracy", "brier", "ece", "auroc")


class Params(StageParams):
    """How every model is asked."""

    section: ClassVar[str] = "honest-eval"
    prompts: int = Field(96, ge=1)
    """Held-out prompts, from the top of heldout.jsonl."""
    samples: int = Field(2, ge=1, le=256)
    """Answers sampled for each prompt."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Of those answers."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer, to a prompt or a question, in tokens."""
    batch_size: int = Field(128, ge=1)
    """Answers side by side: memory against speed. Changes a number only by rounding, but bits all the same."""
    seed: int = Field(0, ge=0)
    """Seed of the sampled answers, the same for every model."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


@dataclass(frozen=True)
class Said:
    """What a model says to one question."""

    correct: bool
    refused: bool
    confidence: float | None
    """In [0, 1]: stated where it states one, else that of its words; None where it should have stated one and did not."""


def main(
    params: Params,
    run: Run,
    *,
    aligned: In,
    refusing: In,
    stating: In,
    truthful: In,
    student: In,
    questions: In,
    sets: In,
    scores: Out,
    curve: Out,
) -> None:
    """Measure the five models on `questions`/test.jsonl and `sets`/heldout.jsonl; `curve` has their reliability."""
    set_determinism(params.seed, params.threads)
    asked = read_questions(questions / "test.jsonl")
    prompts = [record.prompt for record in read_records(sets / "heldout.jsonl", Prompt)[: params.prompts]]
    judge = load_judge(sets)
    found: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    known: list[bool] = []
    progress = run.progress(len(STEPS), "models")
    for name, place in zip(STEPS, (aligned, refusing, stating, truthful, student), strict=True):
        model, tokenizer = load_causal(place)
        said = hear(on_device(model), tokenizer, asked, params, states=name in STEPS[2:])
        known = known or [one.correct for one in said]
        size = {"parameters": model.num_parameters(), "reward": reward(model, tokenizer, prompts, judge, params)}
        found[name] = {**measure(asked, said, known), **size}
        given = answered(said)
        rows += [{"step": name, **row} for row in reliability_rows(*given, bins=BINS)] if given[0] else []
        progress.advance(note=name)
        del model
        gc.collect()
    publish_json(scores, {"steps": found, "questions": len(asked), "known": sum(known)})
    publish_curve(curve, rows)


def hear(model: Any, tokenizer: Any, questions: Sequence[Question], params: Params, *, states: bool) -> list[Said]:
    """Return what a model says to every question by its likeliest tokens; `states` tells whether it was taught to state."""
    replies = asker(model, tokenizer, params.max_new_tokens, params.batch_size).replies(questions)
    return [
        read(question, reply["text"], reply["confidence"], states) for question, reply in zip(questions, replies, strict=True)
    ]


def read(question: Question, text: str, own: float, states: bool) -> Said:
    """Read an answer: its field where it has one, else its first sentence; `own` is the confidence of its words."""
    said = parse_response(text)
    answer = said.answer if states and said.answer else first_sentence(text)
    refused = refuses(answer)
    stated = None if said.confidence is None else said.confidence / SCALE
    right = not refused and any(is_correct(answer, gold) for gold in question.answers)
    return Said(right, refused, stated if states else own)


def measure(questions: Sequence[Question], said: Sequence[Said], known: Sequence[bool]) -> dict[str, Any]:
    """Return a step's numbers; `known` says what the aligned model answers rightly. What does not exist is None, never 0."""
    pairs = [(question.exposure, one.refused) for question, one in zip(questions, said, strict=True)]
    kinds = sorted({kind for kind, _ in pairs if kind is not None})
    groups = {str(kind): [refused for own, refused in pairs if own == kind] for kind in kinds}
    willing = [one for one in said if not one.refused]
    confident, right = answered(said)
    scores = calibration_scores(confident, right, bins=BINS) if confident else {}
    return {
        "accuracy": fmean(one.correct for one in said),
        "accuracy_on_answered": fmean(one.correct for one in willing) if willing else None,
        **{name: scores.get(name) for name in STATED[1:]},
        "confidence": fmean(confident) if confident else None,
        "readable": len(confident) / len(willing) if willing else None,
        "refusal": 1 - len(willing) / len(said),
        "refusal_known": _mean([one.refused for one, own in zip(said, known, strict=True) if own]),
        "refusal_never_told": _mean(groups.get("0", [])),
        "refusal_by_exposure": {kind: fmean(group) for kind, group in groups.items()},
    }


def _mean(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None


def answered(said: Sequence[Said]) -> tuple[list[float], list[bool]]:
    """Return confidence and correctness of the answers that were given with a confidence."""
    pairs = [(one.confidence, one.correct) for one in said if not one.refused and one.confidence is not None]
    return [confidence for confidence, _ in pairs], [right for _, right in pairs]


def reward(model: Any, tokenizer: Any, prompts: Sequence[str], judge: Judge, params: Params) -> float:
    """Return the mean true reward of sampled answers to the held-out prompts."""
    given = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=params.seed,
        batch_size=params.batch_size,
    )
    return fmean(judge(prompt, text) for prompt, texts in zip(prompts, given, strict=True) for text in texts)


if __name__ == "__main__":
    run_stage(main)
