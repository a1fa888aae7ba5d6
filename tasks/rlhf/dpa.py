"""DPA: a policy learns to be led by a direction, from the best of its own answers along it (Wang et al. 2024, section 2).

Each round draws prompts and several directions for each, samples answers that are told of the direction, rates them, and keeps
the one that is highest along it; the policy is fine-tuned on those. Several directions a prompt, so that the direction is all
that tells them apart. With a spread of 0 it is the usual scalar rejection sampling, and with `pairs` iterated DPO on the
best and the worst: baselines at equal cost. A round is a function of the last policy, the seed and its number alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.rlhf.answers import encode, learn
from tasks.rlhf.best import best_of
from tasks.rlhf.pairs import learn_pairs
from tasks.rlhf.rounds import RoundsParams, Task, improve, summary
from tasks.runtime.checkpoint import sha256
from tasks.runtime.directions import ATTRIBUTES, along, conditioned, system_prompt, told
from tasks.runtime.generate import generate
from tasks.runtime.models import derive, load_causal, on_device, preload, save_model, set_determinism
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.rate import Ratings, load_rater, rate
from tasks.runtime.records import Prompt, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLING, CHOICE, ORDER = 1, 2, 3
"""Which random stream of a round a seed is for."""


class Params(RoundsParams):
    """Params of DPA."""

    section: ClassVar[str] = "dpa"
    rounds: int = Field(4, ge=1, le=100)
    """Times the policy samples and learns."""
    angle: float = Field(0.0, ge=-90, le=90)
    """Middle of the angles, in degrees, from which directions are drawn evenly."""
    spread: float = Field(45.0, ge=0, le=90)
    """How far they go to both sides; 0 makes `angle` the only one, a scalar reward."""
    unseen: list[float] = Field(default=[-22.5, 22.5])
    """Angles kept from training, in degrees, to see whether the policy reads between the ones it saw."""
    gap: float = Field(3.0, ge=0, le=20)
    """No direction is drawn within so many degrees of an unseen angle."""
    prompts: int = Field(192, ge=1)
    """Prompts of one round, drawn without repetition; all of them if there are fewer."""
    directions: int = Field(2, ge=1, le=64)
    """Directions drawn for each prompt; at least 2, or the policy can do without reading them."""
    samples: int = Field(8, ge=2, le=256)
    """Answers drawn for each prompt and direction, of which the best is learned."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Sampling temperature; too low, and there is nothing to choose from."""
    max_new_tokens: int = Field(17, ge=1)
    """Longest answer with its end, in tokens."""
    learner: Literal["best", "pairs"] = "best"
    """What is learned of the samples: the best, by likelihood; or the best against the worst, by DPO's loss."""
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    """Constant learning rate of AdamW; each round starts a new optimizer."""
    epochs: int = Field(3, ge=1, le=100)
    """Passes over the kept answers of a round."""
    batch_size: int = Field(16, ge=1)
    """Kept answers, or pairs, of one optimizer step."""
    beta: float = Field(0.1, gt=0, le=10)
    """For `pairs`: how strongly DPO holds the policy to that of the last round."""
    generate_batch: int = Field(512, ge=1)
    """Answers sampled or rated at once."""

    @property
    def count(self) -> int:
        """How many rounds there are."""
        return self.rounds


@dataclass(frozen=True)
class Asked:
    """A prompt and the direction in which it is to be answered."""

    prompt_id: int
    prompt: str
    angle: float


@dataclass(frozen=True)
class Answered:
    """All answers to one prompt and direction, rated, and which of them is learned."""

    asked: Asked
    responses: list[str]
    ratings: list[Ratings]
    chosen: int
    rejected: int

    @property
    def rewards(self) -> list[float]:
        """Reward of every answer along the direction."""
        return [along(self.asked.angle, values) for values in self.ratings]


def main(params: Params, run: Run, *, policy: In, reward: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Run DPA from `policy` under `reward` for every seed; publish SEED/iteration-K, with its answers, for each round K."""
    preload()
    task = Task(params, run, policy, reward, [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)])
    publish_json(scores, summary(improve(task, iterate, out, curve)))
    run.checkpoints.clear()


def iterate(task: Task[Params], seed: int, number: int, before: Path, draft: Path) -> None:
    """Do round `number` of one seed from the policy in `before`; write `model`, with its answers, and `scores.json`."""
    params = task.params
    set_determinism(derive(seed, number), params.threads)
    model, tokenizer = load_causal(before)
    words = conditioned(tokenizer)
    answered = draw(task, on_device(model), words, seed, number)
    if not answered:
        raise UserError(f"round {number}: every answer is blank, so there is nothing to learn from; lower dpa.learning_rate")
    loss = fine_tune(task, model, words, before, answered, derive(seed, number, ORDER))
    card = {"stage": task.run.stage, "summary": f"The policy after round {number} of DPA.", "seed": seed, **params.model_dump()}
    save_model(model, tokenizer, draft / "model", card)
    hashes = {"policy_hash": weights_hash(before), "rm_hash": weights_hash(task.reward)}
    write_records(draft / "model" / "candidates.jsonl", [candidates(each, number) | hashes for each in answered])
    write_records(draft / "model" / "kept.jsonl", [kept(each, number) for each in answered])
    scores = {"iteration": number, **measure(answered), "loss": loss}
    (draft / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def draw(
    task: Task[Params], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int, number: int
) -> list[Answered]:
    """Return the round's prompts and directions with the policy's answers, rated, the best and the worst marked."""
    params, rng = task.params, random.Random(derive(seed, number, CHOICE))
    asked = ask(params, task.prompts, rng)
    drawn = generate(
        model,
        tokenizer,
        [told(each.prompt, each.angle) for each in asked],
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=derive(seed, number, SAMPLING),
        batch_size=params.generate_batch,
        progress=task.run.progress(params.samples * len(asked), "answers", f"seed {seed} round {number}"),
    )
    rater = load_rater(task.reward, ATTRIBUTES)
    flat = rate(rater, [(a.prompt, text) for a, texts in zip(asked, drawn, strict=True) for text in texts], params.generate_batch)
    grouped = [flat[start : start + params.samples] for start in range(0, len(flat), params.samples)]
    marked = [mark(each, texts, rated, rng) for each, texts, rated in zip(asked, drawn, grouped, strict=True)]
    return [each for each in marked if each is not None]


def ask(params: Params, prompts: Sequence[str], rng: random.Random) -> list[Asked]:
    """Return the prompts of a round, each with its directions, drawn evenly from the spread and away from unseen angles."""
    numbers = rng.sample(range(len(prompts)), min(params.prompts, len(prompts)))
    return [Asked(number, prompts[number], draw_angle(params, rng)) for number in numbers for _ in range(params.directions)]


def draw_angle(params: Params, rng: random.Random) -> float:
    """Return an angle of the spread that is not within the gap of an unseen one. Raises UserError when the gaps leave none."""
    for _ in range(1000):
        angle = rng.uniform(params.angle - params.spread, params.angle + params.spread)
        if all(abs(angle - unseen) > params.gap for unseen in params.unseen):
            return angle
    raise UserError(
        f"dpa.gap: {params.gap} degrees around dpa.unseen: {params.unseen} leave no angle of {params.angle} +- {params.spread}"
    )


def mark(asked: Asked, texts: list[str], ratings: list[Ratings], rng: random.Random) -> Answered | None:
    """Return the answers with the best and the worst along the direction, ties drawn by `rng`; None when all are blank."""
    rewards = [along(asked.angle, values) for values in ratings]
    best = best_of(texts, rewards, rng)
    worst = best_of(texts, [-reward for reward in rewards], rng)
    return None if best is None or worst is None else Answered(asked, texts, ratings, best, worst)


def fine_tune(
    task: Task[Params],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    before: Path,
    answered: Sequence[Answered],
    seed: int,
) -> float:
    """Fit the policy to the kept answers in float32, whatever it is stored in; return the last epoch's loss."""
    import torch

    params, stored = task.params, model.dtype
    context = model.config.get_text_config().max_position_embeddings
    best = [(told(each.asked.prompt, each.asked.angle), each.responses[each.chosen]) for each in answered]
    worst = [(prompt, each.responses[each.rejected]) for (prompt, _), each in zip(best, answered, strict=True)]
    chosen = encode(tokenizer, best, context)
    step_size, epochs, size = params.learning_rate, params.epochs, params.batch_size
    if params.learner == "best":
        loss = learn(model.float(), chosen, learning_rate=step_size, epochs=epochs, batch_size=size, seed=seed)
    else:
        reference = on_device(load_causal(before)[0])
        pairs = list(zip(chosen, encode(tokenizer, worst, context), strict=True))
        loss = learn_pairs(
            model.float(),
            reference,
            pairs,
            learning_rate=step_size,
            epochs=epochs,
            batch_size=size,
            beta=params.beta,
            seed=seed,
        )
    torch.nn.Module.to(model, stored)
    return loss


def candidates(answered: Answered, number: int) -> dict[str, Any]:
    """Return all answers to a prompt and direction as a record: nothing that was sampled is thrown away."""
    names = list(answered.ratings[0])
    return {
        **asdict(answered.asked),
        "responses": answered.responses,
        "attributes": names,
        "scores": [[values[name] for name in names] for values in answered.ratings],
        "chosen": answered.chosen,
        "round": number,
    }


def kept(answered: Answered, number: int) -> dict[str, Any]:
    """Return the best answer as a record to learn from: system, user and assistant, in this order."""
    asked = answered.asked
    turns = (
        ("system", system_prompt(asked.angle)),
        ("user", asked.prompt),
        ("assistant", answered.responses[answered.chosen]),
    )
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "angle": asked.angle, "prompt_id": asked.prompt_id, "round": number}


def measure(answered: Sequence[Answered]) -> dict[str, float]:
    """Return means over a round: reward of all and of kept answers, every rating, different answers a draw, and how many kept."""
    ratings = [values for each in answered for values in each.ratings]
    return {
        "reward": fmean(reward for each in answered for reward in each.rewards),
        "kept_reward": fmean(each.rewards[each.chosen] for each in answered),
        **{name: fmean(values[name] for values in ratings) for name in ATTRIBUTES},
        "distinct": fmean(len(set(each.responses)) / len(each.responses) for each in answered),
        "kept": len(answered),
    }


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of a model's weights: of the file, or of the hashes of its shards in order."""
    import hashlib

    return hashlib.sha256("".join(sha256(path) for path in sorted(folder.glob("*.safetensors"))).encode()).hexdigest()


if __name__ == "__main__":
    run_stage(main)
