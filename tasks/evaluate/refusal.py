"""Measures refusal: R-Tuning, its variants and their baselines on the same test questions (Zhang et al. 2024, sections 4 and 5).

Everything is measured once by asking the base and every tuned variant; the systems are ways to read those answers. The world
is measured as well: where a linear probe cannot read from the base model what it knows, the run is marked as unsuitable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tasks.evaluate.calibration.binned import reliability_rows
from tasks.evaluate.calibration.ranking import auroc
from tasks.evaluate.calibration.selective import risk_coverage_rows
from tasks.evaluate.linear_probe import fit_logistic, last_states, logits_of
from tasks.evaluate.refusal_scores import BINS, Said, answerable, defined, measure, part
from tasks.evaluate.refusal_systems import BASE, SPEAKING, STATING, Answers, Heard, compared, majority, systems
from tasks.runtime.asking import TEMPERATURE, Asker, asker, resumable
from tasks.runtime.models import check_folder, encode_text, load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.questions import Question, read_questions
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import VARIANTS, are_refusals


class Params(StageParams):
    """How the models are asked."""

    section: ClassVar[str] = "refusal-eval"
    seed: int = Field(0, ge=0)
    """Seed of the samples of Vanilla-C."""
    samples: int = Field(10, ge=2, le=100)
    """Sampled answers of Vanilla-C, whose majority it gives."""
    temperature: float = Field(TEMPERATURE, gt=0, le=2)
    """Of those samples."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """A model is willing when it is surer than this; what it should be depends on the share of D0, so see the curves too."""
    gate: float = Field(0.8, ge=0.5, le=1)
    """Least AUROC of the linear probe on the base model with which a result says something about the method."""
    max_new_tokens: int = Field(15, ge=1, le=256)
    """Tokens of an answer."""
    batch_size: int = Field(64, ge=1)
    """Questions asked together."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


class Known(Record):
    """What the base model knows of a training question."""

    qid: str
    question: str = Field(min_length=1)
    known: bool


def main(
    params: Params, run: Run, *, base: In, models: In, data: In, scores: Out, rows: Out, curve: Out, reliability: Out
) -> None:
    """Measure `base` and `models`/VARIANT on `data`/test.jsonl; `data`/identify.jsonl trains the linear probe."""
    places = {BASE: base} | {variant: models / variant for variant in VARIANTS}
    for place in places.values():
        check_folder(place)
    set_determinism(params.seed, params.threads)
    questions = read_questions(data / "test.jsonl")
    known = read_records(data / "identify.jsonl", Known)
    answers: Answers = {name: listen(name, place, questions, params, run) for name, place in places.items()}
    said = systems(questions, answers, params.threshold)
    publish_rows(rows, questions, said)
    publish_curve(curve, diagrams(said, questions, lambda one: risk_coverage_rows(one.ranking, one.correct)))
    publish_curve(reliability, diagrams(said, questions, lambda one: reliability_rows(one.stated, one.correct, bins=BINS)))
    publish_json(
        scores,
        {
            "world": world(base, known, questions, said["pretrain_t"], params),
            "systems": {name: measure(one, questions) for name, one in said.items()},
            "compared": compared(questions, answers, said),
        },
    )
    run.checkpoints.clear()


def listen(name: str, place: Path, questions: Sequence[Question], params: Params, run: Run) -> list[Heard]:
    """Ask one model all that the systems need of it."""
    model, tokenizer = load_causal(place)
    asked = asker(on_device(model.float()), tokenizer, params.max_new_tokens, params.batch_size)

    def ask(portion: list[Question]) -> list[Heard]:
        return hear(name, asked, portion, params)

    return resumable(run, name, questions, ask)


def hear(name: str, asked: Asker, questions: list[Question], params: Params) -> list[Heard]:
    """Return what a model says to some questions: its verdict, its refusal or its samples, where its variant has them."""
    found = [Heard(**reply) for reply in asked.replies(questions, forced=name == "replacement")]
    if name in SPEAKING:
        for heard, refused in zip(found, are_refusals(asked.tokenizer, asked.texts(questions)), strict=True):
            heard["refused"] = refused
    if name in STATING:
        own = asked.sure(questions, [heard["text"] for heard in found])
        for heard, sure in zip(found, own, strict=True):
            heard["sure"] = sure
        answered = [n for n, question in enumerate(questions) if question.answers]
        gold = asked.sure([questions[n] for n in answered], [questions[n].answers[0] for n in answered])
        for n, sure in zip(answered, gold, strict=True):
            found[n]["sure_gold"] = sure
    if name == "vanilla":
        for heard, texts in zip(found, asked.sampled(questions, params.samples, params.temperature, params.seed), strict=True):
            heard["majority"], heard["share"] = majority(texts)
    return found


def diagrams(said: dict[str, Said], questions: Sequence[Question], rows: Callable[[Said], list[Any]]) -> list[dict[str, Any]]:
    """Return the rows of a curve of every system on every set that has answers: `set`, `system`, and what `rows` gives."""
    sets = answerable(questions)
    return [
        {"set": each, "system": name, **row}
        for each, members in sets.items()
        for name, one in said.items()
        for row in rows(part(one, members))
    ]


def world(base: Path, known: Sequence[Known], questions: Sequence[Question], said: Said, params: Params) -> dict[str, Any]:
    """Return the share of D0, the linear probe's AUROC on test questions of the first set, and whether the world is suitable."""
    model, tokenizer = load_causal(base)
    asked = asker(on_device(model.float()), tokenizer, params.max_new_tokens, params.batch_size)
    training = [encode_text(asked.tokenizer, one.question, add_special_tokens=True) for one in known]
    fitted = fit_logistic(last_states(model, training, params.batch_size), [one.known for one in known])
    sets = answerable(questions)
    home = [n for n, member in enumerate(sets[next(iter(sets))]) if member]
    test = last_states(model, [asked.prompt(questions[n]) for n in home], params.batch_size)
    found = defined(auroc(logits_of(test, fitted), [said.correct[n] for n in home]))
    return {
        "d0_share": sum(not one.known for one in known) / len(known),
        "probe_auroc": found,
        "suitable": found is not None and found >= params.gate,
        "accuracy_by_exposure": accuracy_by_exposure(questions, said.correct),
    }


def accuracy_by_exposure(questions: Sequence[Question], correct: Sequence[bool]) -> dict[str, float]:
    """Return the share of right answers by how often a fact was stated."""
    groups = sorted({question.exposure for question in questions if question.exposure is not None})
    right = {group: [c for q, c in zip(questions, correct, strict=True) if q.exposure == group] for group in groups}
    return {str(group): sum(each) / len(each) for group, each in right.items()}


def publish_rows(out: Path, questions: Sequence[Question], said: dict[str, Said]) -> None:
    """Publish every answer of every system: `qid`, `system`, `pred`, `correct`, `willing`, `answer_conf`, `sure`."""
    with publish(out) as draft:
        write_records(
            draft,
            [
                {
                    "qid": question.id,
                    "system": name,
                    "pred": one.texts[n],
                    "correct": one.correct[n],
                    "willing": one.willing[n],
                    "answer_conf": one.confidence[n],
                    "sure": None if one.sure is None else one.sure[n],
                }
                for name, one in said.items()
                for n, question in enumerate(questions)
            ],
        )


if __name__ == "__main__":
    run_stage(main)
