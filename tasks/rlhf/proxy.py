"""Stage `proxy`: good answers of the model after RLHF, drawn from itself, as the likelihood that HMA must not lose.

HMA cannot ask people, nor the reward model, at every step of its search. It asks how likely the merged model finds what the
model after RLHF says at its best (Lin et al. 2024, proxy distillation): sampled, scored, the highest rewards kept, some drawn.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from tasks.rlhf import reward as rewards
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.generate import generate
from tasks.runtime.models import derive, load_causal, on_device, preload, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.posts import SINGLE, ScoredAnswer, answers_file, find_posts
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Prompt, read_records, write_records
from tasks.runtime.seeds import side_by_side
from tasks.runtime.stage import In, Out, Run, run_stage

PROMPTS, SAMPLING, CHOICE = 1, 2, 3
"""Which random stream of a model a seed is for."""
ALL, DRAWN = "all.jsonl", "drawn.jsonl"


class Params(StageParams):
    """Params of the proxy-distillation set."""

    section: ClassVar[str] = "proxy"
    reward: str = rewards.MODEL
    """`model` for the reward model, or a function of prompt and completion as `package.module:function`."""
    prompts: int = Field(256, ge=1)
    """Prompts to answer, drawn without repetition; all of them if there are fewer."""
    samples: int = Field(4, ge=1, le=256)
    """Answers drawn for each prompt."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Sampling temperature."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest answer, in tokens."""
    best: int = Field(320, ge=1)
    """Answers with the highest rewards, over all prompts, that are kept to draw from; all but blank ones if there are fewer."""
    draw: int = Field(128, ge=1)
    """Answers drawn from those for the set; all of them if there are fewer."""
    seed: int = Field(0, ge=0)
    """Seed of the prompts, the sampling and the draw."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one model; as many models run side by side as the cores allow."""
    generate_batch: int = Field(256, ge=1)
    """Answers sampled or scored at once: memory against speed."""


@dataclass(frozen=True)
class Task:
    """What the sets of all models after RLHF share."""

    params: Params
    run: Run
    posts: Mapping[str, Path]
    reward: Path
    prompts: Sequence[str]

    def checkpoints(self, name: str) -> Checkpoints:
        """Return whether the set of this model is done: checkpoint 1."""
        return Checkpoints(self.run.checkpoints.folder / ("single" if name == SINGLE else f"seed-{name}"))


def main(params: Params, run: Run, *, post: In, reward: In, sets: In, out: Out, scores: Out) -> None:
    """Draw the set of every model below `post` under `reward`; publish SEED.jsonl, or proxy.jsonl for a single model."""
    posts = find_posts(post)
    preload()
    task = Task(params, run, posts, reward, [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)])
    side_by_side({f"seed {name}": partial(build, task, name) for name in posts}, params.threads)
    measured = {}
    with publish(out) as draft:
        draft.mkdir()
        for name in posts:
            place = task.checkpoints(name).place(1)
            measured["all" if name == SINGLE else name] = measure(
                *(read_records(place / file, ScoredAnswer) for file in (ALL, DRAWN))
            )
            shutil.copyfile(place / DRAWN, draft / answers_file(name))
    means = {key: fmean(values[key] for values in measured.values()) for key in next(iter(measured.values()))}
    publish_json(scores, {**means, "seeds": measured})
    run.checkpoints.clear()


def build(task: Task, name: str) -> None:
    """Sample, score and choose the answers of one model, unless that is done."""
    done = task.checkpoints(name)
    if not done.steps():
        answers = sample(task, name)
        chosen = choose(answers, task.params, random.Random(derive(task.params.seed, CHOICE)))
        with done.save(1) as draft:
            write_records(draft / ALL, answers)
            write_records(draft / DRAWN, chosen)


def sample(task: Task, name: str) -> list[ScoredAnswer]:
    """Return the answers, blank ones left out, of one model after RLHF, each with its reward.

    Raises UserError when every answer is blank.
    """
    params = task.params
    set_determinism(params.seed, params.threads)
    seed = int(name) if name.isdigit() else params.seed
    prompts = random.Random(derive(params.seed, PROMPTS)).sample(task.prompts, min(params.prompts, len(task.prompts)))
    model, tokenizer = load_causal(task.posts[name])
    progress = task.run.progress(params.samples * len(prompts), "answers", "" if name == SINGLE else f"seed {name}")
    texts = generate(
        on_device(model),
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=derive(params.seed, SAMPLING, seed),
        batch_size=params.generate_batch,
        progress=progress,
    )
    answers = [(prompt, text) for prompt, said in zip(prompts, texts, strict=True) for text in said if text.strip()]
    if not answers:
        raise UserError(f"{task.posts[name]}: every answer is blank, so the proxy set would be empty; is this the trained model?")
    values = rewards.load(params.reward, task.reward, params.generate_batch)(answers)
    return [
        ScoredAnswer(prompt=prompt, response=text, reward=value, seed=seed)
        for (prompt, text), value in zip(answers, values, strict=True)
    ]


def choose(answers: Sequence[ScoredAnswer], params: Params, rng: random.Random) -> list[ScoredAnswer]:
    """Return `params.draw` of the `params.best` answers with the highest rewards, in random order; of equal rewards, any."""
    mixed = rng.sample(answers, len(answers))
    best = sorted(mixed, key=lambda answer: -answer.reward)[: params.best]
    return rng.sample(best, min(params.draw, len(best)))


def measure(answers: Sequence[ScoredAnswer], drawn: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Return the mean reward of all answers and of the drawn ones, how many there are, and how many of them are different."""
    return {
        "answers": len(answers),
        "reward": fmean(answer.reward for answer in answers),
        "drawn": len(drawn),
        "drawn_reward": fmean(answer.reward for answer in drawn),
        "drawn_different": len({(answer.prompt, answer.response) for answer in drawn}),
    }


if __name__ == "__main__":
    run_stage(main)
