"""What GRPO and RLOO share: TRL's trainers with our sampler, our rewards, and an order of prompts that is drawn beforehand.

TRL samples with `model.generate`; here it is `tasks.runtime.generate`, which encodes a prompt once for all its answers and draws
each from a stream of its own, named by seed, step and place in the batch: so a resumed run draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.rlhf.penalised import PenalisedParams, chosen_penalty
from tasks.rlhf.reward import MODEL, Reward, check_varied, load
from tasks.runtime.fit.plan import Plan, renamed, thinned
from tasks.runtime.generate import generate_ids
from tasks.runtime.launch import here
from tasks.runtime.models import (
    check_folder,
    derive,
    encode_prompt,
    load_causal,
    load_tokenizer,
    set_determinism,
)
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Prompt, read_records
from tasks.runtime.stage import Run

if TYPE_CHECKING:
    from transformers import Trainer

LOGGED = {"completions/mean_length": "length", "num_tokens": "tokens"}
"""Columns of the curve by TRL's names; `tokens` counts prompts and answers so far."""


class OnlineParams(PenalisedParams):
    """Training on answers that the policy gives as it learns."""

    reward: str = MODEL
    """What is maximised: `model` for the reward model, or a function as `package.module:function`."""
    batch_size: int = Field(8, ge=1)
    """Prompts of one optimizer step, each answered `samples` times."""
    samples: int = Field(8, ge=2, le=256)
    """Answers to each prompt, each judged against the others."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Sampling temperature."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest answer, in tokens."""
    generate_batch: int = Field(256, ge=1)
    """Answers sampled or scored at once: memory against speed. Changes a number only by rounding, but bits all the same."""


class Sampled:
    """Mixin for a trainer of TRL: its prompts are encoded, and its answers sampled, as everywhere else in this house."""

    plan: Plan

    def _tokenize_prompts(self: Any, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    def draw(self: Any, encoded: Sequence[list[int]]) -> list[list[int]]:
        """Return an answer to each prompt as it was drawn, its end included; leaves the model in training mode."""
        from trl.models import unwrap_model_for_generation

        params, first = self.plan.params, self.plan.place.rank * len(encoded)
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            answers = generate_ids(
                model,
                self.processing_class,
                encoded,
                max_new_tokens=params.max_new_tokens,
                temperature=params.temperature,
                seed=derive(params.seed, self.state.global_step),
                batch_size=params.generate_batch,
                numbers=range(first, first + len(encoded)),
            )
        self.model.train()
        return [drawn.actions for (drawn,) in answers]


def train(
    params: OnlineParams,
    run: Run,
    make: Callable[..., Trainer],
    summary: str,
    *,
    policy: Path,
    reward: Path,
    sets: Path,
    out: Path,
    scores: Path,
    curve: Path,
) -> None:
    """Tune `policy` on answers to `sets`/prompts.jsonl; publish `out`/iteration-K for every snapshot K from 1.

    `make` is given the model, the reward as TRL calls it, the plan, the prompts in their order, and the tokenizer.
    """
    check_folder(policy)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    tokenizer = load_tokenizer(policy)
    prompts = [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)]
    lengths = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    check_room(lengths, params)
    judge = load(params.reward, reward, params.generate_batch)

    from datasets import Dataset

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.snapshots import Snapshots

    plan = Plan(run, params, place, lengths, answers=params.samples, snapshots=params.snapshots)
    ordered = Dataset.from_list([{"prompt": prompts[row]} for row in plan.order])
    trainer: Any = make(policy, as_reward(judge), plan, ordered, tokenizer)
    trainer.plan, trainer.penalty = plan, chosen_penalty(params, policy, place)
    snapshots = Snapshots(trainer, tokenizer, plan, summary)
    trainer.add_callback(snapshots)
    measures = ["loss", "reward", "reward_std", *(["kl"] if params.beta else []), *LOGGED, "learning_rate"]
    course = [{name: value for name, value in row.items() if name != "tokens"} for row in fit(trainer, plan, measures)]
    points = thinned(renamed(course, LOGGED))
    if place.first:
        snapshots.publish(out)
        publish_curve(curve, points)
        last = {name: value for name, value in points[-1].items() if name not in ("step", "learning_rate", "tokens")}
        first = {"first_reward": points[0]["reward"]}
        publish_json(scores, {**first, **{f"last_{name}": value for name, value in last.items()}, "tokens": points[-1]["tokens"]})
        run.checkpoints.clear()


def check_room(lengths: Sequence[int], params: OnlineParams) -> None:
    """Raise UserError when a prompt with its longest answer does not fit into `max_length` tokens."""
    if (most := max(lengths) + params.max_new_tokens) > params.max_length:
        name = params.section
        raise UserError(
            f"{name}.max_length: {params.max_length}, but the longest prompt and {name}.max_new_tokens: "
            f"{params.max_new_tokens} make {most} tokens; raise the first or lower the second"
        )


def as_reward(judge: Reward) -> Callable[..., list[float]]:
    """Return a reward as TRL calls it. It raises UserError when all answers of a step, on all processes, are worth the same."""

    def reward(prompts: Sequence[str], completions: Sequence[str], trainer_state: Any, **_: Any) -> list[float]:
        from accelerate.utils import gather_object

        values = judge(list(zip(prompts, completions, strict=True)))
        check_varied(gather_object(values), f"step {trainer_state.global_step + 1}")
        return values

    return reward


def settings(kind: Any, plan: Plan, **more: Any) -> Any:
    """Return TRL's settings: a step samples its own answers, and learns from them once."""
    from tasks.runtime.fit.trainer import arguments

    params: Any = plan.params
    return arguments(
        kind,
        plan,
        num_generations=params.samples,
        max_completion_length=params.max_new_tokens,
        temperature=params.temperature,
        shuffle_dataset=False,
        beta=params.beta,
        **more,
    )


def start_model(policy: Path, plan: Plan) -> Any:
    """Return the policy as it starts. Raises UserError when a text would exceed its context."""
    from tasks.runtime.fit.trainer import check_context, trainable

    params: Any = plan.params
    model, _ = load_causal(policy)
    check_context(model, params, policy)
    return trainable(model, plan.place)
