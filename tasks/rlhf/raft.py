"""RAFT: the model learns the best of its own answers, again and again (Dong et al. 2023, reward-ranked fine-tuning).

An iteration draws some samples for each prompt from the current policy, keeps the one the reward model likes best, and
fine-tunes the policy on those. It is a function of the last policy, the seed and its number alone, so a run that was
killed goes on with the same bits. Every iteration's model is kept: they are the early-stopping front.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.rlhf.answers import encode, learn, logprob
from tasks.rlhf.best import Kept, keep, measure
from tasks.rlhf.rounds import RoundsParams, Task, improve, summary
from tasks.runtime.generate import generate
from tasks.runtime.models import derive, load_causal, load_reward, on_device, preload, save_model, set_determinism
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.records import Prompt, read_records, write_records
from tasks.runtime.score import score
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLING, CHOICE, ORDER = 1, 2, 3
"""Which random stream of an iteration a seed is for."""


class Params(RoundsParams):
    """Params of RAFT."""

    section: ClassVar[str] = "raft"
    iterations: int = Field(6, ge=1, le=100)
    """Times the policy samples and learns."""
    prompts: int = Field(128, ge=1)
    """Prompts of one iteration, drawn without repetition; all of them if there are fewer."""
    samples: int = Field(8, ge=2, le=256)
    """Answers drawn for each prompt, of which the best is learned."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Sampling temperature."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest answer, in tokens."""
    learning_rate: float = Field(5e-4, gt=0, lt=1)
    """Constant learning rate of AdamW; each iteration starts a new optimizer."""
    epochs: int = Field(2, ge=1, le=100)
    """Passes over the kept answers of an iteration."""
    batch_size: int = Field(16, ge=1)
    """Answers of one optimizer step."""
    generate_batch: int = Field(256, ge=1)
    """Answers sampled or scored at once: memory against speed. Changes a number only by rounding, but bits all the same."""

    @property
    def count(self) -> int:
        """How many iterations there are."""
        return self.iterations


def main(params: Params, run: Run, *, policy: In, reward: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Run RAFT from `policy` under `reward` for every seed; publish SEED/iteration-K for every iteration K from 1."""
    preload()
    task = Task(params, run, policy, reward, [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)])
    publish_json(scores, summary(improve(task, iterate, out, curve)))
    run.checkpoints.clear()


def iterate(task: Task[Params], seed: int, number: int, before: Path, draft: Path) -> None:
    """Do iteration `number` of one seed, from the policy in `before`; write `model` (with its answers) and `scores.json`."""
    params = task.params
    set_determinism(derive(seed, number), params.threads)
    model, tokenizer = load_causal(before)
    on_device(model)
    rng = random.Random(derive(seed, number, CHOICE))
    prompts = rng.sample(task.prompts, min(params.prompts, len(task.prompts)))
    samples, rewards = draw(task, model, tokenizer, prompts, seed, number)
    kept = keep(prompts, samples, rewards, rng)
    if not kept:
        raise UserError(f"iteration {number}: every answer is blank, so there is nothing to learn from; lower raft.learning_rate")
    first = [(prompt, texts[0]) for prompt, texts in zip(prompts, samples, strict=True)]
    scores = {"iteration": number, **measure(rewards, kept), "drift": drift(task, model, tokenizer, first)}
    loss = fine_tune(params, model, tokenizer, kept, derive(seed, number, ORDER))
    card = {"stage": "raft", "summary": f"The policy after iteration {number} of RAFT.", "seed": seed, **params.model_dump()}
    save_model(model, tokenizer, draft / "model", card)
    write_records(draft / "model" / "kept.jsonl", [asdict(answer) for answer in kept])
    (draft / "scores.json").write_text(json.dumps({**scores, "loss": loss}), encoding="utf-8")


def draw(
    task: Task[Params],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seed: int,
    number: int,
) -> tuple[list[list[str]], list[list[float]]]:
    """Return the policy's samples for each prompt, and their rewards."""
    params = task.params
    progress = task.run.progress(2 * params.samples * len(prompts), "answers", f"seed {seed} iteration {number}")
    samples = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=derive(seed, number, SAMPLING),
        batch_size=params.generate_batch,
        progress=progress,
    )
    judge, words = load_reward(task.reward)
    answers = [(prompt, text) for prompt, texts in zip(prompts, samples, strict=True) for text in texts]
    flat = score(on_device(judge), words, answers, batch_size=params.generate_batch, progress=progress)
    return samples, [flat[start : start + params.samples] for start in range(0, len(flat), params.samples)]


def drift(
    task: Task[Params], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answers: Sequence[tuple[str, str]]
) -> float:
    """Estimate KL(policy || policy before RLHF) in nats per token, from `answers` sampled from the policy."""
    start, _ = load_causal(task.policy)
    examples = encode(tokenizer, answers, model.config.get_text_config().max_position_embeddings)
    sizes = task.params.generate_batch
    return logprob(model, examples, sizes) - logprob(on_device(start), examples, sizes)


def fine_tune(
    params: Params, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kept: Sequence[Kept], seed: int
) -> float:
    """Fit the policy to the kept answers, in float32 whatever it is stored in; return the last epoch's loss."""
    import torch

    context = model.config.get_text_config().max_position_embeddings
    examples = encode(tokenizer, [(answer.prompt, answer.completion) for answer in kept], context)
    stored = model.dtype
    loss = learn(
        model.float(),
        examples,
        learning_rate=params.learning_rate,
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=seed,
    )
    torch.nn.Module.to(model, stored)
    return loss


if __name__ == "__main__":
    run_stage(main)
