"""Makes the base model of Lean: a small Llama that reads files of theorems, in words and in Lean, before it learns to prove.

It begins with heads that copy and learns the proofs alone: what a statement says is drawn at random in this world, so that
nothing is to be learned of it. Theorems that stand alone come before files of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import load_tokenizer, set_determinism
from tasks.runtime.packing import IGNORED, Example, PackedRow, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run
from tasks.runtime.theorem_prompt import Layout, Renderer
from tasks.train.llama import LlamaParams, check_shape, new_llama

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


class Params(LlamaParams):
    """Shape and training of the base model."""

    section: ClassVar[str] = "lean-base"
    layers: int = Field(4, ge=2, le=128)
    """Transformer blocks; copying takes two."""
    heads: int = Field(4, ge=4, le=128)
    """Attention heads; copying takes four."""
    hidden_size: int = Field(128, ge=32, le=8192)
    """Width of the residual stream."""
    positions: int = Field(1024, ge=8, le=131_072)
    """Longest sequence that the model will take, in tokens; at least `max_length`."""
    copying: bool = True
    """Whether the weights begin with heads that copy, or all at random."""
    learned: Literal["proofs", "all"] = "proofs"
    """Which tokens the loss counts: those of proofs, or all."""


class Theorem(BaseModel):
    """One theorem of a file."""

    question: str
    """All that stands before its proof."""
    proof: str = Field(min_length=1)


class File(Record):
    """Theorems of one file."""

    theorems: list[Theorem] = Field(min_length=1)


def main(params: Params, run: Run, *, corpus: In, tokenizer: In, out: Out, scores: Out, curve: Out) -> None:
    """Train a Llama on `corpus`/pretrain.jsonl and measure it on `corpus`/perplexity.jsonl."""
    check_shape(params)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    words = load_tokenizer(tokenizer)
    alone, several = packed(words, corpus / "pretrain.jsonl", params)
    heldout = [row for rows in packed(words, corpus / "perplexity.jsonl", params) for row in rows]
    rows = [*alone, *several]

    from transformers import TrainingArguments

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import PackedLoss, arguments, mean_loss, publish_model

    ranks = [0] * len(alone) + [1] * len(several)
    plan = Plan(run, params, place, [len(row["input_ids"]) for row in rows], ranks=ranks)
    model = new_model(params, words)
    trainer = PackedLoss(
        model,
        arguments(TrainingArguments, plan, adam_beta2=0.95),
        train_dataset=[rows[row] for row in plan.order],
        data_collator=partial(collate, pad_id=words.pad_token_id),
    )
    points = thinned(fit(trainer, plan))
    loss = mean_loss(trainer, plan, heldout, words.pad_token_id)
    publish_model(trainer, words, plan, out, "A Llama trained from scratch on theorems of core Lean and their proofs.")
    if plan.place.first:
        publish_curve(curve, points)
        figures = {"parameters": model.num_parameters(), "tokens": plan.seen[-1]}
        publish_json(scores, {"loss": points[-1]["loss"], "heldout_loss": loss, **figures})
        run.checkpoints.clear()


def packed(tokenizer: PreTrainedTokenizerBase, source: Path, params: Params) -> tuple[list[PackedRow], list[PackedRow]]:
    """Return the rows of the files of one theorem, and those of files of several.

    The first are learned first: with the same names in every theorem, a head that copies is lost among several at the start.
    """
    files = list(read_records(source, File))
    examples = encode(tokenizer, files, source, params)
    several = [len(file.theorems) > 1 for file in files]
    alone, together = (
        pack([example for example, more in zip(examples, several, strict=True) if more == wanted], params.max_length)
        for wanted in (False, True)
    )
    return alone, together


def encode(tokenizer: PreTrainedTokenizerBase, files: Sequence[File], source: Path, params: Params) -> list[Example]:
    """Return the files as a prover will meet them: all theorems but the last are examples, then comes the one to be proved.

    To the token: a base that had not read the marks of a prompt forgot what it knew while provers learned them. Raises UserError
    for a file that is too long.
    """
    texts = [text for file in files for theorem in file.theorems for text in (theorem.question, theorem.proof)]
    pieces = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    renderer, examples = Renderer(tokenizer, Layout()), []
    for number, file in enumerate(files, 1):
        ids, labels = _framed(renderer, [(next(pieces), next(pieces)) for _ in file.theorems], params)
        if len(ids) > params.max_length:
            raise UserError(
                f"{source}: record {number} has {len(ids)} tokens; set {params.section}.max_length: {len(ids)} or more, or "
                "lower lean-words.file"
            )
        examples.append((ids, labels))
    return examples


def _framed(renderer: Renderer, theorems: Sequence[tuple[list[int], list[int]]], params: Params) -> Example:
    """Return the tokens and labels of one file, given by the tokens of its questions and proofs."""
    ids, labels = list(renderer.before), [IGNORED] * len(renderer.before)
    for place, (question, proof) in enumerate(theorems, 1):
        last = place == len(theorems)
        given = [*question, *(renderer.after if last else [])]
        behind = [renderer.end] if last else renderer.separator
        ids += [*given, *proof, *behind]
        labels += [*([IGNORED] * len(given)), *proof, *(behind if last else [IGNORED] * len(behind))]
    return ids, ids if params.learned == "all" else labels


def new_model(params: Params, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a new Llama, with heads that copy if they are wanted."""
    from tasks.train.copying_heads import THETA, plant

    model = new_llama(params, tokenizer, rope_parameters={"rope_type": "default", "rope_theta": THETA})
    if params.copying:
        plant(model, params.seed)
    return model


if __name__ == "__main__":
    launch_stage(main)
