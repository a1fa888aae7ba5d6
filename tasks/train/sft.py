"""Instruction tuning: teaches a base model to answer, on the answers alone, each ended by one end-of-sequence token.

Examples are packed into rows without seeing each other, so the loss is that of the unpacked examples and hardly a token
computed is padding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, encode_completion, encode_prompt, load_causal, load_tokenizer, set_determinism
from tasks.runtime.packing import IGNORED, Example, PackedRow, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Completion, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


class Params(FitParams):
    """Training of the policy before RLHF."""

    section: ClassVar[str] = "sft"
    heldout: int = Field(32, ge=1)
    """Records kept from training, on whose answers the loss is measured."""
    too_long: Literal["cut", "skip"] = "cut"
    """What becomes of a record of more than `max_length` tokens: the end of its answer is cut off, or it is left out."""


@dataclass
class Encoded:
    """Records as examples, and what their length did to them."""

    examples: list[Example] = field(default_factory=list)
    cut: int = 0
    skipped: int = 0


def main(params: Params, run: Run, *, base: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune the model in `base` on `sets`/sft.jsonl."""
    check_folder(base)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    tokenizer = load_tokenizer(base)
    source = sets / "sft.jsonl"
    training, heldout = split(read_records(source, Completion), params, str(source))
    learned = encode(tokenizer, training, params, str(source))
    measured = encode(tokenizer, heldout, params, str(source))
    rows = pack(learned.examples, params.max_length)

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import check_context, mean_loss, publish_model

    plan = Plan(run, params, place, [len(row["input_ids"]) for row in rows])

    def load() -> PreTrainedModel:
        model, _ = load_causal(base)
        check_context(model, params, base)
        return model

    trainer = packed_trainer(load, tokenizer, rows, plan)
    points = thinned(fit(trainer, plan))
    loss = mean_loss(trainer, plan, pack(measured.examples, params.max_length), tokenizer.pad_token_id)
    publish_model(trainer, tokenizer, plan, out, "An instruction-tuned policy: it answers prompts and stops.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(
            scores,
            {
                "loss": points[-1]["loss"],
                "heldout_loss": loss,
                "records": len(learned.examples),
                "cut": learned.cut,
                "skipped": learned.skipped,
                "tokens": plan.seen[-1],
                "learned_tokens": sum(label != IGNORED for _, labels in learned.examples for label in labels),
                "filled": sum(plan.lengths) / (len(rows) * params.max_length),
            },
        )
        run.checkpoints.clear()


def split(records: Sequence[Completion], params: Params, source: str) -> tuple[list[Completion], list[Completion]]:
    """Return the records to train on and those held out, drawn by the seed. Raises UserError when none is left to train on."""
    if len(records) <= params.heldout:
        raise UserError(f"{source}: {len(records)} records, of which sft.heldout: {params.heldout} are held out; lower it")
    kept = set(random.Random(params.seed).sample(range(len(records)), params.heldout))
    return [r for n, r in enumerate(records) if n not in kept], [r for n, r in enumerate(records) if n in kept]


def encode(tokenizer: PreTrainedTokenizerBase, records: Sequence[Completion], params: Params, source: str) -> Encoded:
    """Return records as examples that learn the answer and its end, none longer than `max_length`.

    A record whose prompt alone fills a row is skipped in any case. Raises UserError when all are.
    """
    found = Encoded()
    for record in records:
        prompt, answer = encode_prompt(tokenizer, record.prompt), encode_completion(tokenizer, record.completion)
        room = params.max_length - len(prompt)
        if len(answer) > room:
            if params.too_long == "skip" or room < 1:
                found.skipped += 1
                continue
            found.cut += 1
            answer = answer[:room]
        found.examples.append((prompt + answer, [IGNORED] * len(prompt) + answer))
    if not found.examples:
        raise UserError(f"{source}: every record is longer than sft.max_length: {params.max_length}; raise it")
    return found


def packed_trainer(
    load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, rows: Sequence[PackedRow], plan: Plan
) -> Trainer:
    """Return TRL's trainer for a model, on rows that are encoded and packed already.

    The model is loaded when the place is settled: ZeRO-3 shares it out while it is read.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tasks.runtime.fit.trainer import PackedLoss, arguments, trainable

    class PackedSFTTrainer(PackedLoss, SFTTrainer):
        """TRL's trainer with the loss of packed rows."""

    settings = arguments(SFTConfig, plan, dataset_kwargs={"skip_prepare_dataset": True})
    return PackedSFTTrainer(
        trainable(load(), plan.place),
        settings,
        train_dataset=Dataset.from_list(rows).select(plan.order),
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    launch_stage(main)
