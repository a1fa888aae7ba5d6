"""Weaves words into Lean proofs: theorems in, aligned records with commented proofs out (open bootstrapped theorems).

For Atlas the words are written by rule, and labelled so. For Lean from elsewhere a language model writes them, shown the
examples that the retriever finds nearest. A commented proof is accepted only if without its comments it is the proof, and they
say something.
What is not accepted is kept beside the records, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.data.informal import (
    Answers,
    ask,
    comment_request,
    in_words,
    informal_request,
    judge_comments,
    judge_words,
)
from tasks.data.nearest import nearest
from tasks.data.writers import EndpointWriter, ModelWriter, Writer
from tasks.runtime.endpoint import Endpoint, Store
from tasks.runtime.lean.comments import comments, refusal, woven
from tasks.runtime.lean.difficulty import count_steps
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import OnBadRecord, Rejects, read_records, write_records
from tasks.runtime.stage import WORK, In, Out, Run, run_stage
from tasks.runtime.theorems import Aligned, Told


class Params(StageParams):
    """Who writes the words, and what is accepted."""

    section: ClassVar[str] = "obt"
    writer: Literal["rules", "endpoint", "model"] = "rules"
    """`rules`: only theorems that come with their words, line by line, as Atlas's do. `endpoint`, `model`: a language model."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible endpoint, up to and without `/chat/completions`."""
    endpoint_model: str | None = None
    """The endpoint's model, or the folder of a local one."""
    parallel: int = Field(8, ge=1, le=256)
    """Requests to the endpoint at once."""
    timeout: float = Field(120.0, gt=0)
    """Seconds for one request."""
    retries: int = Field(5, ge=0)
    """Further attempts after a fault of the endpoint."""
    attempts: int = Field(3, ge=1, le=100)
    """Times a theorem is asked about until its answer is accepted."""
    temperature: float = Field(0.7, gt=0, le=2)
    """Of every attempt but the first."""
    examples: int = Field(3, ge=0, le=32)
    """Aligned theorems shown with a question."""
    example_pool: int = Field(100, ge=1)
    """Theorems with words of their own that examples are chosen from."""
    longest: int = Field(4000, ge=50)
    """Characters of a theorem and its proof in words; longer ones are turned away."""
    max_new_tokens: int = Field(512, ge=1)
    """Length of a local model's answer."""
    batch_size: int = Field(16, ge=1)
    """Answers of a local model drawn at once."""
    seed: int = Field(0, ge=0)
    """Seed of a local model's further attempts."""
    on_bad_record: OnBadRecord = "stop"
    """Whether a malformed line stops the stage or is set aside."""

    @model_validator(mode="after")
    def _names_its_writer(self) -> Params:
        if self.writer == "endpoint" and not (self.endpoint and self.endpoint_model):
            raise ValueError("writer: endpoint needs endpoint and endpoint_model")
        if self.writer == "model" and not self.endpoint_model:
            raise ValueError("writer: model needs endpoint_model, a model folder")
        return self


@dataclass
class Woven:
    """What became of the theorems."""

    aligned: list[Aligned] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    """Of each of the two questions: times asked, and answers turned away by reason."""

    def reject(self, row: Told, reason: str, text: str = "") -> None:
        """Set a theorem aside."""
        self.rejected.append({"Name": row.Name, "reason": reason, "text": text, "Proof": row.Proof})

    def accept(self, row: Told, words: str, informalised_by: str, commented: str, commented_by: str) -> None:
        """Keep a theorem with its words and its commented proof."""
        more = {"idx": len(self.aligned), "steps": count_steps(row.body), "Generated_informal_statement_and_proof": words}
        labels = {"Commented_proof": commented, "informalised_by": informalised_by, "commented_by": commented_by}
        self.aligned.append(Aligned.model_validate({**row.model_dump(), **more, **labels}))


def main(params: Params, run: Run, *, theorems: In, retriever: In, out: Out, scores: Out) -> None:
    """Write the aligned records of `theorems` and the rejected ones into `out`, and their counts to `scores`."""
    rejects = Rejects()
    told = read_records(theorems, Told, params.on_bad_record, rejects)
    first = list({row.Name: row for row in reversed(told)}.values())[::-1]
    kept = {id(row) for row in first}
    woven = by_rules(first) if params.writer == "rules" else by_model(params, first, writer_of(params, run), retriever)
    for row in told:
        if id(row) not in kept:
            woven.reject(row, "name taken")
    if not woven.aligned:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in _reasons(woven).items())
        raise UserError(f"{theorems}: none of {len(told)} theorems could be aligned ({reasons}); set another obt.writer")
    with publish(out) as draft:
        write_records(draft / "records.jsonl", woven.aligned)
        write_records(draft / "rejected.jsonl", woven.rejected)
        rejects.save(draft / "malformed.jsonl")
    publish_json(scores, {**describe(told, woven), "malformed": len(rejects.lines)})


def writer_of(params: Params, run: Run) -> Writer:
    """Return who writes."""
    name = str(params.endpoint_model)

    def counting(total: float, unit: str) -> Any:
        return run.progress(total, unit, name)

    if params.writer == "model":
        return ModelWriter(Path(name), params.max_new_tokens, params.batch_size, params.temperature, params.seed, counting)
    endpoint = Endpoint(str(params.endpoint), name, params.timeout, params.retries)
    return EndpointWriter(endpoint, Store(WORK / "written/obt.jsonl"), params.parallel, params.temperature, counting)


def by_rules(told: Sequence[Told]) -> Woven:
    """Align the theorems that bring a sentence for each line of their proof."""
    found = Woven()
    for row in told:
        words, commented = in_words(row), woven(row.Statement, row.body, row.told)
        if not words or not commented:
            found.reject(row, "no rule tells it")
        elif reason := refusal(row.Proof, commented):
            found.reject(row, reason, commented)
        else:
            found.accept(row, words, row.told_by, commented, "rules")
    return found


def by_model(params: Params, told: Sequence[Told], writer: Writer, retriever: Path) -> Woven:
    """Align theorems by asking `writer` for the words of those that have none, and for the comments of all."""
    rows = {row.Name: row for row in told}
    pool = [row for row in told if row.split == "train" and in_words(row)][: params.example_pool]
    silent = [row for row in told if not in_words(row)]
    shown = nearest(retriever, silent, pool, params.examples)
    asked = {row.Name: informal_request(row, examples) for row, examples in zip(silent, shown, strict=True)}
    informal = ask(writer, asked, lambda name, reply: judge_words(reply, params.longest), params.attempts)
    words = {row.Name: in_words(row) for row in told if in_words(row)} | informal.good
    requests = {name: comment_request(rows[name], text) for name, text in words.items()}
    commented = ask(writer, requests, lambda name, reply: judge_comments(rows[name], reply), params.attempts)
    woven = Woven(asked={"words": _asked(informal), "comments": _asked(commented)})
    for name, row in rows.items():
        if name in commented.good:
            by = writer.name if name in informal.good else row.told_by
            woven.accept(row, words[name], by, commented.good[name], writer.name)
        else:
            woven.reject(row, *(informal.faults.get(name) or commented.faults[name]))
    return woven


def describe(told: Sequence[Told], woven: Woven) -> dict[str, Any]:
    """Return how many were accepted, why others were not, how much was commented, and the steps of the proofs."""
    steps = Counter(row.steps for row in woven.aligned)
    added = sum(len(comments(row.Commented_proof)) - len(comments(row.Proof)) for row in woven.aligned)
    return {
        "theorems": len(told),
        "accepted": len(woven.aligned),
        "acceptance": len(woven.aligned) / len(told),
        "rejected": _reasons(woven),
        "asked": woven.asked,
        "new_comments": added / len(woven.aligned),
        "splits": dict(Counter(row.split for row in woven.aligned)),
        "steps": {str(number): steps[number] for number in sorted(steps)},
    }


def _reasons(woven: Woven) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in woven.rejected).items()))


def _asked(answers: Answers) -> dict[str, Any]:
    return {"asked": answers.asked, "good": len(answers.good), "turned_away": dict(sorted(answers.turned_away.items()))}


if __name__ == "__main__":
    run_stage(main)
