"""Measures one model: what it says to held-out prompts, what it still can, and how well it predicts held-out text.

All models are asked the same with the same random numbers, so that they differ by what they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.evaluate.perplexity import likelihood
from tasks.evaluate.skills import NEXT_TOKEN, Skills, ask, exact_match
from tasks.runtime.diversity import distinct
from tasks.runtime.generate import generate
from tasks.runtime.judges import Judge
from tasks.runtime.models import load_causal, load_reward, on_device, set_determinism
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_json
from tasks.runtime.score import score


@dataclass(frozen=True)
class Questions:
    """What every model is asked."""

    prompts: Sequence[str]
    """Held-out prompts, answered by sampling."""
    skills: Skills
    """Questions with one right answer; empty for data that has none."""
    texts: Sequence[str]
    """Held-out texts."""


class AskParams(StageParams):
    """How every model is asked."""

    seed: int = Field(0, ge=0)
    """Seed of the sampled answers, the same for every model."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one model; as many models are measured side by side as the cores allow."""
    samples: int = Field(2, ge=1, le=256)
    """Answers sampled for each held-out prompt."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Temperature of those answers; 0 takes the likeliest tokens."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest of those answers, in tokens. Skills are given one token more than their longest right answer."""
    max_tokens: int = Field(200, ge=1)
    """Predicted tokens of each text that perplexity counts."""
    batch_size: int = Field(128, ge=1)
    """Answers or texts side by side: memory against speed. Changes a number only by rounding, but bits all the same."""


def measure(model: Path, reward: Path, judge: Judge | None, questions: Questions, how: AskParams, out: Path) -> None:
    """Write what the model in `model` does to the file `out`, whole or not at all.

    `answers` and `scores` (reward model, raw units) and, with a judge, `rewards` have a list for each prompt; `skills` are
    shares of right answers.
    """
    set_determinism(how.seed, how.threads)
    policy, tokenizer = load_causal(model)
    on_device(policy)
    answers = generate(
        policy,
        tokenizer,
        questions.prompts,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        samples=how.samples,
        seed=how.seed,
        batch_size=how.batch_size,
    )
    told = ask(policy, tokenizer, questions.skills, how.batch_size)
    found = likelihood(policy, tokenizer, questions.texts, max_tokens=how.max_tokens, batch_size=how.batch_size)
    measured: dict[str, Any] = {
        "answers": answers,
        "scores": _scored(reward, questions.prompts, answers, how.batch_size),
        "told": told,
        "skills": exact_match(questions.skills, told) or {NEXT_TOKEN: found.accuracy},
        "distinct": distinct([text for texts in answers for text in texts], 2),
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
    }
    if judge:
        pairs = zip(questions.prompts, answers, strict=True)
        measured["rewards"] = [[judge(prompt, text) for text in texts] for prompt, texts in pairs]
    publish_json(out, measured)


def read(out: Path) -> dict[str, Any]:
    """Return what `measure` wrote."""
    measured: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return measured


def _scored(reward: Path, prompts: Sequence[str], answers: Sequence[Sequence[str]], batch_size: int) -> list[list[float]]:
    model, tokenizer = load_reward(reward)
    pairs = [(prompt, text) for prompt, texts in zip(prompts, answers, strict=True) for text in texts]
    flat = iter(score(on_device(model), tokenizer, pairs, batch_size=batch_size))
    return [[next(flat) for _ in texts] for texts in answers]
