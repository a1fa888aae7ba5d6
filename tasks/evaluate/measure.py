"""Measures one model: what it says to held-out prompts, what it still can, and how well it predicts held-out text.

All models are asked the same with the same random numbers, so that they differ by what they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.evaluate.perplexity import likelihood
from tasks.evaluate.skills import NEXT_TOKEN, Skills, ask, exact_match, read_skills
from tasks.runtime.diversity import distinct
from tasks.runtime.generate import generate
from tasks.runtime.judges import Judge, distinct_words, load_judge
from tasks.runtime.models import load_causal, load_reward, on_device, preload, set_determinism
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_json
from tasks.runtime.records import Prompt, Text, read_records
from tasks.runtime.score import score
from tasks.runtime.seeds import side_by_side
from tasks.runtime.stage import Run


@dataclass(frozen=True)
class Questions:
    """What every model is asked."""

    prompts: Sequence[str]
    """Held-out prompts, answered by sampling."""
    skills: Skills
    """Questions with one right answer; empty for data that has none."""
    texts: Sequence[str]
    """Held-out texts."""


Unit = Annotated[float, Field(ge=0, le=1)]


class AskParams(StageParams):
    """What every model is asked, and how."""

    judge: Literal["atlas", "diversity", "reward_model"] = "atlas"
    """Reward: the true one of Atlas; the share of different words; or, where nobody knows the truth, the reward model."""
    prompts: int = Field(96, ge=1)
    """Held-out prompts, from the top of heldout.jsonl."""
    texts: int = Field(400, ge=1)
    """Held-out texts, from the top of perplexity.jsonl."""

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


def read_questions(params: AskParams, sets: Path) -> Questions:
    """Read what every model is asked."""
    return Questions(
        [record.prompt for record in read_records(sets / "heldout.jsonl", Prompt)[: params.prompts]],
        read_skills(sets),
        [record.text for record in read_records(sets / "perplexity.jsonl", Text)[: params.texts]],
    )


def load_judge_of(params: AskParams, sets: Path) -> Judge | None:
    """Return the true judge, or None where there is none but the reward model."""
    if params.judge == "reward_model":
        return None
    return load_judge(sets) if params.judge == "atlas" else distinct_words


def measure_all(
    places: Mapping[str, Path], reward: Path, questions: Questions, judge: Judge | None, how: AskParams, run: Run
) -> dict[str, dict[str, Any]]:
    """Measure every model by name, side by side; what a stopped run had measured is not measured again."""
    outs = {name: run.checkpoints.folder / f"{name.replace('/', '-')}.json" for name in places}
    left = {name: out for name, out in outs.items() if not out.exists()}
    preload()
    parts = {name: partial(measure, places[name], reward, judge, questions, how, out) for name, out in left.items()}
    side_by_side(parts, how.threads, run.progress(len(left), "models"))
    return {name: read(out) for name, out in outs.items()}


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
