"""What a student of a teacher with many lessons is distilled on: the teacher's own answers, and texts as they are.

The answers are to the questions it was tuned on and to prompts; the texts are those that told it its facts, each from its second
token on. Questions kept for validation choose c: they come with their right answers, without those that the teacher refuses,
for a refusal has no right answer that its confidence could be compared with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from tasks.runtime.confidence import Question
from tasks.runtime.models import load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Prompt, Record, Text, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import first_sentence, refuses

Pair = dict[str, Any]


class Params(StageParams):
    """What the teacher is asked."""

    section: ClassVar[str] = "transfer"
    prompts: int = Field(256, ge=0)
    """Prompts answered, from the top of prompts.jsonl."""
    samples: int = Field(2, ge=1, le=256)
    """Answers sampled for each prompt; a question is answered once, by the likeliest tokens."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Of the samples."""
    texts: int = Field(4000, ge=0)
    """Texts of pretrain.jsonl, drawn by the seed."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer, in tokens."""
    batch_size: int = Field(256, ge=1)
    """Answers side by side: memory against speed. Changes a number only by rounding, but bits all the same."""
    seed: int = Field(0, ge=0)
    """Seed of samples and texts."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


class Turn(Record):
    """What one side of a conversation says."""

    role: str
    content: str = Field(min_length=1)


class Learned(Record):
    """A conversation that the teacher was tuned on."""

    messages: list[Turn] = Field(min_length=2, max_length=2)


def main(params: Params, run: Run, *, teacher: In, questions: In, sets: In, out: Out, scores: Out) -> None:
    """Write `out`/sft.jsonl and `out`/valid.jsonl.

    `questions` has what the teacher was tuned on (sft.jsonl, rl.jsonl) and what is kept for validation (valid.jsonl).
    """
    set_determinism(params.seed, params.threads)
    tuned = [record.messages[0].content for record in read_records(questions / "sft.jsonl", Learned)]
    tuned += [question.prompt for question in read_records(questions / "rl.jsonl", Question)]
    kept = read_records(questions / "valid.jsonl", Question)
    prompts = [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)[: params.prompts]]
    model, tokenizer = load_causal(teacher)
    on_device(model)
    asked = Asked(model, tokenizer, params, run)
    answered = asked.answers(tuned, 0.0, 1) + asked.answers(prompts, params.temperature, params.samples)
    willing = [
        question
        for question, said in zip(kept, asked.texts([question.prompt for question in kept], 0.0, 1), strict=True)
        if not refuses(first_sentence(said[0]))
    ]
    if not willing:
        raise UserError(f"{questions}/valid.jsonl: the teacher refuses all of its questions, so nothing can choose c; give more")
    told = statements(read_records(sets / "pretrain.jsonl", Text), params)
    rows = answered + told
    random.Random(params.seed).shuffle(rows)
    with publish(out) as draft:
        write_records(draft / "sft.jsonl", rows)
        write_records(draft / "valid.jsonl", [{"prompt": one.prompt, "completion": one.answers[0]} for one in willing])
    publish_json(
        scores, {"answers": len(answered), "texts": len(told), "valid": len(willing), "refused": len(kept) - len(willing)}
    )


class Asked:
    """A model with how it is asked."""

    def __init__(self, model: Any, tokenizer: Any, params: Params, run: Run) -> None:
        """Hold what `generate` needs."""
        self._model, self._tokenizer, self._params, self._run = model, tokenizer, params, run

    def texts(self, prompts: Sequence[str], temperature: float, samples: int) -> list[list[str]]:
        """Return so many answers to every prompt."""
        from tasks.runtime.generate import generate

        return generate(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=self._params.max_new_tokens,
            temperature=temperature,
            samples=samples,
            seed=self._params.seed,
            batch_size=self._params.batch_size,
            progress=self._run.progress(samples * len(prompts), "answers"),
        )

    def answers(self, prompts: Sequence[str], temperature: float, samples: int) -> list[Pair]:
        """Return prompts with their answers as records; an empty answer is left out."""
        given = self.texts(prompts, temperature, samples)
        pairs = [(prompt, text) for prompt, texts in zip(prompts, given, strict=True) for text in texts if text.strip()]
        return [{"prompt": prompt, "completion": text} for prompt, text in pairs]


def statements(texts: Sequence[Text], params: Params) -> list[Pair]:
    """Return some texts as records that learn all but their first word; a text of one word is left out."""
    long = [text.text.split(maxsplit=1) for text in texts if len(text.text.split()) > 1]
    drawn = random.Random(params.seed).sample(long, min(params.texts, len(long)))
    return [{"prompt": first, "completion": rest} for first, rest in drawn]


if __name__ == "__main__":
    run_stage(main)
