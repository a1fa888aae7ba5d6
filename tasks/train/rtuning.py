"""R-Tuning: teaches a model its answers, and after each whether it was sure of it (Zhang et al. 2024, section 3.2).

The loss is on the answer and on the verdict, each with the end that follows; the question carries none, and the fixed sentence
between the two only when asked to: it is the same every time and would be most of what is learned.
A batch is so many questions and is packed only then, so that all variants take the same number of steps, long rows or short.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.runtime.confidence import add_words, unknown_words
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, encode_text, load_causal, set_determinism
from tasks.runtime.packing import IGNORED, Example, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.probe import plain
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run
from tasks.runtime.verdicts import SENTENCE, Variant, Verdicts, encode_answer, encode_verdicts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Params(FitParams):
    """Training of one variant; `batch_size` counts questions."""

    section: ClassVar[str] = "rtuning"
    variant: Variant = "padding"
    """Which rows are learned: R-Tuning's `padding`, `replacement` (R), `unsupervised` (U), or the gold answers alone."""
    epochs: float = Field(1.0, ge=1, le=100)
    """Passes over the data; less than one would tune a model hardly at all and compare it as if it were tuned."""
    learn_sentence: bool = False
    """Whether the fixed sentence between answer and verdict is learned too."""


class Row(Record):
    """A question, its answer, and the verdict on it where the variant has one."""

    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    verdict: str | None
    qid: str


def main(params: Params, run: Run, *, base: In, data: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune the model in `base` on `data`/VARIANT/train.jsonl."""
    check_folder(base)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    source = data / params.variant / "train.jsonl"
    rows = read_records(source, Row)
    model, tokenizer = load_causal(base)
    add_words(model, tokenizer, unknown_words(tokenizer, [text for row in rows for text in spoken(row)]))
    examples = encode(plain(tokenizer), rows, params, source)

    from transformers import TrainingArguments

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import PackedLoss, arguments, check_context, publish_model, trainable

    plan = Plan(run, params, place, [len(ids) for ids, _ in examples])
    check_context(model, params, base)
    trainer = PackedLoss(
        trainable(model, place),
        arguments(TrainingArguments, plan),
        train_dataset=[examples[number] for number in plan.order],
        data_collator=partial(packed, max_length=params.max_length, pad_id=tokenizer.pad_token_id),
    )
    points = thinned(fit(trainer, plan))
    check_steps(trainer.state.global_step, len(examples), params)
    publish_model(trainer, tokenizer, plan, out, "A model tuned to answer, and to say whether it is sure.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(
            scores,
            {
                "loss": points[-1]["loss"],
                "records": len(examples),
                "steps": plan.steps,
                "tokens": plan.seen[-1],
                "learned_tokens": sum(label != IGNORED for _, labels in examples for label in labels),
            },
        )
        run.checkpoints.clear()


def spoken(row: Row) -> list[str]:
    """Return what a model must be able to say for a row; a tokenizer of whole words may lack the words of a refusal."""
    return [row.answer, *([SENTENCE, row.verdict] if row.verdict is not None else [])]


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], params: Params, source: Path) -> list[Example]:
    """Return rows as examples that learn the answer, the verdict and the end.

    Raises UserError for a row longer than `max_length`: cut, it would lose its verdict.
    """
    verdicts = encode_verdicts(tokenizer)
    examples = [_example(tokenizer, row, verdicts, params.learn_sentence) for row in rows]
    longest, row = max((len(ids), row.qid) for (ids, _), row in zip(examples, rows, strict=True))
    if longest > params.max_length:
        raise UserError(f"{source}: row {row!r} has {longest} tokens, rtuning.max_length is {params.max_length}; raise it")
    return examples


def _example(tokenizer: PreTrainedTokenizerBase, row: Row, verdicts: Verdicts, learn_sentence: bool) -> Example:
    """Return one row: prompt, answer, sentence, verdict and end, each part encoded on its own."""
    learned = [(encode_answer(tokenizer, row.answer), True)]
    if row.verdict is not None:
        learned += [(verdicts.sentence, learn_sentence), (encode_answer(tokenizer, row.verdict), True)]
    parts = [(encode_text(tokenizer, row.prompt, add_special_tokens=True), False), *learned, ([tokenizer.eos_token_id], True)]
    ids = [token for part, _ in parts for token in part]
    return ids, [token if carries else IGNORED for part, carries in parts for token in part]


def packed(examples: Sequence[Example], max_length: int, pad_id: int) -> dict[str, torch.Tensor]:
    """Return the examples of one batch as packed rows, none of which sees another: `input_ids`, `labels`, `position_ids`."""
    return collate(pack(examples, max_length), pad_id)


def check_steps(done: int, rows: int, params: Params) -> None:
    """Assert that every row was learned as often as `epochs` says, up to what rounding to whole batches leaves."""
    expected = max(1, round(rows * params.epochs / params.batch_size))
    assert done == expected, f"{done} optimizer steps, {expected} were due for {rows} rows"


if __name__ == "__main__":
    launch_stage(main)
