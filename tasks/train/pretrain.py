"""Makes the base model: a small Llama that learns the embedded world from its texts, document by document.

Documents are packed into rows without seeing each other, so what the model knows of an entity comes only from texts that
name it.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import load_tokenizer, set_determinism
from tasks.runtime.packing import Example, collate, pack
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Text, read_records
from tasks.runtime.stage import In, Out, Run
from tasks.train.llama import LlamaParams, check_shape, new_llama

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Params(LlamaParams):
    """Shape and training of the base model."""

    section: ClassVar[str] = "pretrain"


def main(params: Params, run: Run, *, corpus: In, tokenizer: In, out: Out, scores: Out, curve: Out) -> None:
    """Train a Llama on `corpus`/pretrain.jsonl and measure it on `corpus`/perplexity.jsonl."""
    check_shape(params)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    words = load_tokenizer(tokenizer)
    rows = pack(encode(words, corpus / "pretrain.jsonl", params.max_length), params.max_length)
    heldout = pack(encode(words, corpus / "perplexity.jsonl", params.max_length), params.max_length)

    from transformers import TrainingArguments

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import PackedLoss, arguments, mean_loss, publish_model

    plan = Plan(run, params, place, [len(row["input_ids"]) for row in rows])
    model = new_llama(params, words)
    parameters = model.num_parameters()
    trainer = PackedLoss(
        model,
        arguments(TrainingArguments, plan, adam_beta2=0.95),
        train_dataset=[rows[row] for row in plan.order],
        data_collator=partial(collate, pad_id=words.pad_token_id),
    )
    steps = fit(trainer, plan)
    loss = mean_loss(trainer, plan, heldout, words.pad_token_id)
    publish_model(trainer, words, plan, out, "A Llama trained from scratch on the texts of an invented world.")
    if plan.place.first:
        points = thinned(steps)
        publish_curve(curve, points)
        publish_json(
            scores,
            {
                "loss": points[-1]["loss"],
                "heldout_loss": loss,
                "perplexity": math.exp(loss),
                "parameters": parameters,
                "tokens": plan.seen[-1],
            },
        )
        run.checkpoints.clear()


def encode(tokenizer: PreTrainedTokenizerBase, texts: Path, max_length: int) -> list[Example]:
    """Return the documents of a file, each ended by one end-of-sequence token; a long one in pieces of at most `max_length`."""
    documents = tokenizer([record.text for record in read_records(texts, Text)])["input_ids"]
    pieces: list[Example] = []
    for ids in documents:
        whole = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
        cut = [whole[start : start + max_length] for start in range(0, len(whole), max_length)]
        pieces += [(piece, piece) for piece in cut if len(piece) > 1]
    return pieces


if __name__ == "__main__":
    launch_stage(main)
