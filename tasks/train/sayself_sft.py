"""Stage 1 of SaySelf: teaches a model to answer, to say what makes it unsure, and to end with a confidence (Xu et al. 2024).

The loss is on the response alone. A row is learned whole or not at all: its confidence stands last, where a cut would fall. Words
that the base model's tokenizer lacks, such as the names of the fields, become tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from tasks.runtime.confidence import SCALE, add_words, parse_confidence, unknown_words, without_rationale
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, encode_completion, encode_prompt, load_causal, set_determinism
from tasks.runtime.packing import IGNORED, Example, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Params(FitParams):
    """Tuning on stated confidences."""

    section: ClassVar[str] = "sayself-sft"
    rationale: bool = True
    """Whether the rationale is learned; without it, the ablation, an answer is followed by its confidence at once."""


class Turn(BaseModel):
    """What one side says."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class Reflection(Record):
    """A question, and the response to be learned."""

    messages: list[Turn] = Field(min_length=2, max_length=2)
    c: int | None = Field(ge=0, le=SCALE)
    """Confidence with which the response ends; None for one that states none, as in rehearsal of something else."""


def main(params: Params, run: Run, *, base: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune the model in `base` on `sets`/sft.jsonl; `out` has the words of the fields in its vocabulary."""
    check_folder(base)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    source = sets / "sft.jsonl"
    records = [record if params.rationale else bare(record) for record in read_records(source, Reflection)]
    model, tokenizer = load_causal(base)
    words = unknown_words(tokenizer, [turn.content for record in records for turn in record.messages[1:]] + LEVELS)
    add_words(model, tokenizer, words)
    rows = pack(encode(tokenizer, records, params, source), params.max_length)

    from transformers import TrainingArguments

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import PackedLoss, arguments, check_context, publish_model, trainable

    check_context(model, params, base)
    plan = Plan(run, params, place, [len(row["input_ids"]) for row in rows])
    trainer = PackedLoss(
        trainable(model, place),
        arguments(TrainingArguments, plan),
        train_dataset=[rows[row] for row in plan.order],
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
    )
    points = thinned(fit(trainer, plan))
    publish_model(trainer, tokenizer, plan, out, "A policy that states a rationale and a confidence with its answer (stage 1).")
    if plan.place.first:
        publish_curve(curve, points)
        told = {"loss": points[-1]["loss"], "records": len(records), "tokens": plan.seen[-1], "new_words": len(words)}
        publish_json(scores, told)
        run.checkpoints.clear()


def bare(record: Reflection) -> Reflection:
    """Return a record whose response has no rationale."""
    asked, said = record.messages
    turn = said.model_copy(update={"content": without_rationale(said.content)})
    return record.model_copy(update={"messages": [asked, turn]})


LEVELS = [str(level) for level in range(SCALE + 1)]
"""Every confidence must be sayable, also one that no row happens to have."""


def encode(tokenizer: PreTrainedTokenizerBase, records: Sequence[Reflection], params: Params, source: Path) -> list[Example]:
    """Return records as examples that learn the response and its end. Raises UserError for one too long, or without its end."""
    return [_example(tokenizer, record, params, f"{source}: record {n}") for n, record in enumerate(records, start=1)]


def _example(tokenizer: PreTrainedTokenizerBase, record: Reflection, params: Params, where: str) -> Example:
    asked, said = record.messages
    if (asked.role, said.role) != ("user", "assistant") or parse_confidence(said.content) != record.c:
        end = "without `Confidence:`" if record.c is None else f"that ends with `Confidence: {record.c}`"
        raise UserError(f"{where}: must be a user's turn and an assistant's {end}")
    prompt, answer = encode_prompt(tokenizer, asked.content), encode_completion(tokenizer, said.content)
    if len(prompt) + len(answer) > params.max_length:
        raise UserError(
            f"{where}: has {len(prompt) + len(answer)} tokens, past sayself-sft.max_length: {params.max_length}, and cutting it "
            "would lose its confidence; raise it, or lower confidence-data.max_length"
        )
    return prompt + answer, [IGNORED] * len(prompt) + answer


if __name__ == "__main__":
    launch_stage(main)
