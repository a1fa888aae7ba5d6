"""The rivals of averaging: RAFT's best answers learned once more from the model before RLHF, held back in one of eight ways.

That is how Lin et al. 2023 combine RLHF with a regulariser: RLHF runs to the end, and its answers are then learned from the
start with the extra term (section 3 and appendix). One run is one point of a method's front: a method, and its strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from tasks.rlhf.answers import Step, encode, steps
from tasks.rlhf.ema import MovingAverage
from tasks.rlhf.lora import merged, with_adapter
from tasks.rlhf.penalty import PENALTIES, Penalty, frozen
from tasks.rlhf.replay import Replay, read_texts
from tasks.runtime.models import derive, load_causal, on_device, save_model, set_determinism
from tasks.runtime.packing import Example
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import Completion, read_records
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHODS = ("none", *PENALTIES, "replay", "lora", "moving_average")
ORDER, REPLAYED = 1, 2
"""Which random stream of a run a seed is for."""


class Params(StageParams):
    """One method at one strength."""

    section: ClassVar[str] = "mitigated"
    mitigation: str = "none"
    """What holds the policy back, METHOD-STRENGTH as in `l2-0.001`; `none` is RAFT's answers learned freely. The strength of a
    penalty and of replay is its lambda, of lora the rank, of moving_average the decay."""
    seed: int = Field(0, ge=0)
    """Seed of the order, of what is replayed and of adapters; the answers are those of RAFT's run with the same seed."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads."""
    iterations: int = Field(2, ge=1)
    """How many of RAFT's last iterations the answers are taken from."""
    learning_rate: float = Field(5e-4, gt=0, lt=1)
    """Constant learning rate of AdamW."""
    adapter_rate: float = Field(2.0, gt=0)
    """How many times that rate an adapter learns with, which starts from nothing."""
    epochs: int = Field(2, ge=1, le=100)
    """Passes over the answers."""
    batch_size: int = Field(16, ge=1)
    """Answers of one optimizer step."""

    @field_validator("mitigation")
    @classmethod
    def _strength_fits_the_method(cls, mitigation: str) -> str:
        method, strength = split(mitigation)
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
        if (method == "none") != (strength is None):
            raise ValueError("write none, or METHOD-STRENGTH as in l2-0.001")
        if strength is not None and not 0 <= strength < math.inf:
            raise ValueError(f"a strength is a number from 0, not {strength}")
        if method == "lora" and not (strength and strength.is_integer()):
            raise ValueError(f"the strength of lora is its rank, a whole number from 1, not {strength}")
        if method == "moving_average" and strength is not None and strength >= 1:
            raise ValueError(f"the strength of moving_average is its decay, below 1, not {strength}")
        return mitigation

    @property
    def method(self) -> str:
        """What holds the policy back."""
        return split(self.mitigation)[0]

    @property
    def strength(self) -> float:
        """How strongly; 0 for `none`."""
        return split(self.mitigation)[1] or 0.0


def split(mitigation: str) -> tuple[str, float | None]:
    """Return method and strength of METHOD-STRENGTH; without a strength, None. Raises ValueError when it is no number."""
    method, dash, strength = mitigation.partition("-")
    return method, float(strength) if dash else None


@dataclass
class Held:
    """How a method takes part in a run."""

    learner: Any
    """What the optimizer moves: the policy, or the policy with an adapter."""
    rate: float
    """Learning rate."""
    penalty: Penalty | None = None
    replay: Replay | None = None
    average: MovingAverage | None = None


def main(params: Params, run: Run, *, policy: In, raft: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Fine-tune `policy` on the best answers in `raft`, held back by the method; replay draws from `sets`/pretrain.jsonl."""
    import torch

    answers = best_answers(raft, params)
    set_determinism(derive(params.seed), params.threads)
    model, tokenizer = load_causal(policy)
    stored, context = model.dtype, model.config.get_text_config().max_position_embeddings
    examples = encode(tokenizer, answers, context)
    model = on_device(model.float())
    held = hold(params, model, partial(read_texts, sets / "pretrain.jsonl", tokenizer, context), policy)
    taken = fine_tune(params, run, held, examples)
    model = finished(held, model)
    means = {**summary(taken, params.epochs), "distance": distance(model, frozen(policy))}
    torch.nn.Module.to(model, stored)
    card = {"stage": run.stage, "summary": "The best answers of RAFT, learned from the model before RLHF.", **params.model_dump()}
    with publish(out) as draft:
        save_model(model, tokenizer, draft, card)
    publish_curve(curve, [{"step": number, **asdict(step)} for number, step in enumerate(taken, start=1)])
    tokens = params.epochs * sum(len(ids) for ids, _ in examples)
    replayed = held.replay.given if held.replay else 0
    publish_json(scores, {**means, "answers": len(answers), "tokens": tokens, "replayed_tokens": replayed})


def best_answers(raft: Path, params: Params) -> list[tuple[str, str]]:
    """Return (prompt, completion) of what the last iterations of RAFT's run kept. Raises UserError when there is nothing."""
    numbers = sorted(int(place.name.removeprefix("iteration-")) for place in (raft / str(params.seed)).glob("iteration-*"))
    if not numbers:
        raise UserError(f"{raft}: holds no run of RAFT with seed {params.seed}; add it to raft.seeds, or change mitigated.seed")
    if params.iterations > len(numbers):
        raise UserError(f"{raft}: mitigated.iterations: {params.iterations}, but RAFT did {len(numbers)}; lower it")
    kept = []
    for number in numbers[-params.iterations :]:
        kept += read_records(raft / str(params.seed) / f"iteration-{number}" / "kept.jsonl", Completion)
    return [(answer.prompt, answer.completion) for answer in kept]


def hold(params: Params, model: PreTrainedModel, texts: Callable[[], list[list[int]]], policy: Path) -> Held:
    """Return how the method of `params` holds back `model`, which starts as `policy` is; `texts` reads what replay draws from."""
    method, strength, rate = params.method, params.strength, params.learning_rate
    if method in PENALTIES:
        return Held(model, rate, penalty=PENALTIES[method](frozen(policy), strength))
    if method == "replay":
        return Held(model, rate, replay=Replay(texts(), strength, derive(params.seed, REPLAYED)))
    if method == "lora":
        return Held(with_adapter(model, int(strength)), rate * params.adapter_rate)
    if method == "moving_average":
        return Held(model, rate, average=MovingAverage(model, strength))
    return Held(model, rate)


def fine_tune(params: Params, run: Run, held: Held, examples: Sequence[Example]) -> list[Step]:
    """Fit what learns to the examples; return its steps."""
    total = params.epochs * math.ceil(len(examples) / params.batch_size)
    progress = run.progress(total, "steps", params.method)
    taken = []
    for step in steps(
        held.learner,
        examples,
        learning_rate=held.rate,
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=derive(params.seed, ORDER),
        penalty=held.penalty,
        mix=held.replay,
    ):
        taken.append(step)
        progress.advance(note=f"loss {step.loss:.4f}")
        if held.average:
            held.average.update(held.learner)
    return taken


def finished(held: Held, model: PreTrainedModel) -> PreTrainedModel:
    """Return the plain model that the run ends with: the average, the policy with its adapter merged, or the policy itself."""
    if held.average:
        held.average.copy_to(model)
    return model if held.learner is model else merged(held.learner)


def summary(taken: Sequence[Step], epochs: int) -> dict[str, float]:
    """Return the means of the last epoch."""
    last = taken[-(len(taken) // epochs) :]
    return {name: math.fsum(asdict(step)[name] for step in last) / len(last) for name in ("loss", "penalty")}


def distance(model: PreTrainedModel, start: PreTrainedModel) -> float:
    """Return how far the weights are from those of `start`: the norm of the difference by the norm of the latter."""
    import torch

    pairs = list(zip(model.parameters(), start.parameters(), strict=True))
    moved = torch.stack([(now.detach() - before).square().sum() for now, before in pairs]).sum()
    return float((moved / torch.stack([before.square().sum() for _, before in pairs]).sum()).sqrt())


if __name__ == "__main__":
    run_stage(main)
