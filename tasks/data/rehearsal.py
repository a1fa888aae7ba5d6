"""Puts what a model says to other prompts among the rows it is to learn from, so that these cost nothing it could do.

The answers are the model's own: what is rehearsed is what it does now, not what anybody would want of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.runtime.models import load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Prompt, Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """How much is rehearsed, and in which form."""

    section: ClassVar[str] = "rehearsal"
    form: Literal["answer", "messages"] = "answer"
    """Of the rows beside it: those of R-Tuning (`answer`), or conversations as SaySelf has them (`messages`)."""
    file: str = Field("sft.jsonl", min_length=1)
    """Which file of the folder has those rows."""
    prompts: int = Field(256, ge=0)
    """Prompts answered, from the top of prompts.jsonl."""
    samples: int = Field(1, ge=1, le=256)
    """Answers sampled for each."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Of those answers; 0 takes the likeliest tokens."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer, in tokens."""
    batch_size: int = Field(256, ge=1)
    """Answers side by side: memory against speed. Changes a number only by rounding, but bits all the same."""
    seed: int = Field(0, ge=0)
    """Seed of the samples."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


def main(params: Params, run: Run, *, model: In, sets: In, data: In, out: Out, scores: Out) -> None:
    """Write the records of `data`/FILE to `out`/FILE, and behind them what `model` says to `sets`/prompts.jsonl."""
    set_determinism(params.seed, params.threads)
    asked = [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)[: params.prompts]]
    told = FORMS[params.form]
    own = [told(prompt, text, number) for number, (prompt, text) in enumerate(said(params, run, model, asked))]
    learned = [record.model_dump() for record in read_records(data / params.file, Record)]
    with publish(out) as draft:
        write_records(draft / params.file, [*learned, *own])
    publish_json(scores, {"learned": len(learned), "rehearsed": len(own)})


def said(params: Params, run: Run, folder: Any, prompts: list[str]) -> list[tuple[str, str]]:
    """Return (prompt, answer) pairs; an empty answer is left out."""
    from tasks.runtime.generate import generate

    model, tokenizer = load_causal(folder)
    given = generate(
        on_device(model),
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=params.seed,
        batch_size=params.batch_size,
        progress=run.progress(params.samples * len(prompts), "answers"),
    )
    return [(prompt, text) for prompt, texts in zip(prompts, given, strict=True) for text in texts if text.strip()]


def answer(prompt: str, text: str, number: int) -> dict[str, Any]:
    """Return a row as `tasks.train.rtuning` learns it, without a verdict."""
    return {"prompt": prompt, "completion": text, "answer": text, "verdict": None, "qid": f"rehearsal-{number}", "set": "D1"}


def messages(prompt: str, text: str, number: int) -> dict[str, Any]:
    """Return a conversation as `tasks.train.sayself_sft` learns it, without a confidence."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return {"messages": turns, "c": None, "qid": f"rehearsal-{number}"}


FORMS: dict[str, Callable[[str, str, int], dict[str, Any]]] = {"answer": answer, "messages": messages}


if __name__ == "__main__":
    run_stage(main)
