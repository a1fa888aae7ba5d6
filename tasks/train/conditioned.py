"""Makes the policy of the world of wishes: a tiny Llama that learns from nothing to answer when told of a direction.

Its records pair every answer with a direction drawn at random, so it learns to read past the direction: what DPA later gains
over it is due to DPA alone. The loss is on the assistant's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from tasks.runtime.directions import SEPARATOR, conditioned
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import encode_completion, encode_prompt, load_tokenizer, set_determinism
from tasks.runtime.packing import IGNORED, Example, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

TURNS = ["system", "user", "assistant"]


class Params(FitParams):
    """Shape and training of the policy before DPA."""

    section: ClassVar[str] = "dpa-sft"
    hidden_size: int = Field(96, ge=8, le=8192, multiple_of=8)
    """Width of the residual stream; four heads share it."""
    layers: int = Field(2, ge=1, le=128)
    """Transformer blocks."""
    positions: int = Field(64, ge=8, le=131_072)
    """Longest sequence that the model will take, in tokens."""


class Turn(BaseModel):
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Conversation(Record):
    """A system turn, a user turn, and the answer to be learned."""

    messages: list[Turn] = Field(min_length=3, max_length=3)


def main(params: Params, run: Run, *, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Train a Llama on `sets`/sft.jsonl with the tokenizer in `sets`/tokenizer."""
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    tokenizer = load_tokenizer(sets / "tokenizer")
    rows = pack(encode(tokenizer, sets / "sft.jsonl"), params.max_length)

    from transformers import TrainingArguments

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import PackedLoss, arguments, publish_model

    plan = Plan(run, params, place, [len(row["input_ids"]) for row in rows])
    model = new_model(params, tokenizer)
    trainer = PackedLoss(
        model,
        arguments(TrainingArguments, plan, adam_beta2=0.95),
        train_dataset=[rows[row] for row in plan.order],
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
    )
    points = thinned(fit(trainer, plan))
    publish_model(trainer, tokenizer, plan, out, "A policy that is told of a direction and does not heed it yet.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(scores, {"loss": points[-1]["loss"], "parameters": model.num_parameters(), "tokens": plan.seen[-1]})
        run.checkpoints.clear()


def encode(tokenizer: PreTrainedTokenizerBase, source: Path) -> list[Example]:
    """Return conversations as examples that learn the assistant's turn alone. Raises UserError for turns in another order."""
    words = conditioned(tokenizer)
    return [_example(words, record.messages, f"{source}: record {n}") for n, record in _numbered(source)]


def _numbered(source: Path) -> list[tuple[int, Conversation]]:
    return list(enumerate(read_records(source, Conversation), start=1))


def _example(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], where: str) -> Example:
    if (roles := [turn.role for turn in turns]) != TURNS:
        raise UserError(f"{where}: has the turns {', '.join(roles)}; needed are {', '.join(TURNS)}")
    system, user, answer = (turn.content for turn in turns)
    head = encode_prompt(tokenizer, f"{system}{SEPARATOR}{user}")
    tail = encode_completion(tokenizer, answer)
    return head + tail, [IGNORED] * len(head) + tail


def new_model(params: Params, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a Llama with random weights, its input and output embeddings tied.

    Weights start at 1 / sqrt(width): from the usual 0.02 a model this small had not found out after 400 steps that answers name
    what was wished for (loss 3.60 in a short trial, at most 3.25 from larger starts).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=params.hidden_size,
            intermediate_size=2 * params.hidden_size,
            num_hidden_layers=params.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=params.positions,
            initializer_range=params.hidden_size**-0.5,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


if __name__ == "__main__":
    launch_stage(main)
