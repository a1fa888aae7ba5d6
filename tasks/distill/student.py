"""Trains a student on what the teacher thinks of every learned position: FIRST's knowledge matching, and its rivals.

There is no hard-label term. The teacher is not here, only its file of likeliest tokens, recalibrated as batches are read; the one
target for which it must be in memory is `full`, the distillation of its whole vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ValidationError

from tasks.distill.rows import TRAINING, VALIDATION, Rows, read_rows, tokenizer_digest
from tasks.distill.topk_file import Probs, TopK
from tasks.distill.trustworthy import WAYS, Recalibration
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, load_causal, load_tokenizer, on_device, set_determinism
from tasks.runtime.packing import collate, learned_logits, shifted
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

Target = Literal["trustworthy", "temperature", "smoothing", "renormalised", "rest", "full", "hard"]
Measure = Callable[[Any, dict[str, "torch.Tensor"]], "torch.Tensor"]


class Params(FitParams):
    """Distillation into the student."""

    section: ClassVar[str] = "student"
    target: Target = "trustworthy"
    """What is learned: FIRST (`trustworthy`), another recalibration, the raw top-k cut off (`renormalised`) or with all other
    tokens as one more outcome (`rest`), the teacher's whole vocabulary (`full`), or the data's own tokens (`hard`)."""


def main(
    params: Params, run: Run, *, base: In, teacher: In, sets: In, topk: In, recalibration: In, out: Out, scores: Out, curve: Out
) -> None:
    """Train the model in `base` on `sets`/sft.jsonl as the file in `topk` says the teacher reads it."""
    check_folder(base)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    tokenizer = load_tokenizer(base)
    data, valid = (read_rows(tokenizer, sets / f"{name}.jsonl", params.max_length) for name in (TRAINING, VALIDATION))
    file = TopK(topk / f"{TRAINING}.topk")
    file.require(tokenizer=tokenizer_digest(tokenizer), data=data.digest)
    found = read_recalibration(recalibration, file)

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import check_context, mean_loss, publish_model

    plan = Plan(run, params, place, [len(row["input_ids"]) for row in data.rows])
    model, _ = load_causal(base)
    check_context(model, params, base)
    batches = Batches(data, file, tokenizer.pad_token_id, params.target, found)
    measure = matching(params.target, whole_teacher(teacher, tokenizer, model) if params.target == "full" else None)
    check_ids(file, model, base)
    trainer = distilling(model, plan, batches, measure)
    started = time.perf_counter()
    points = thinned(fit(trainer, plan))
    seconds = time.perf_counter() - started
    loss = mean_loss(trainer, plan, valid.rows, tokenizer.pad_token_id)
    publish_model(trainer, tokenizer, plan, out, f"A student distilled from a larger teacher; target: {params.target}.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(
            scores,
            {
                "loss": points[-1]["loss"],
                "valid_loss": loss,
                "c": found.c,
                "seconds": seconds,
                "tokens": plan.seen[-1],
                "learned_tokens": data.offsets[-1],
                "teacher_accuracy": found.accuracy,
            },
        )
        run.checkpoints.clear()


def read_recalibration(path: Path, file: TopK) -> Recalibration:
    """Read what `recalibrate` chose. Raises UserError when it is not such a file, or was chosen for another teacher."""
    try:
        found = Recalibration.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(f"{path}: not what recalibrate writes ({error.error_count()} faults); run it again") from None
    if found.teacher != file.header.teacher:
        raise UserError(f"{path}: c was chosen for another teacher than that of {file.path}; run recalibrate again")
    return found


def check_ids(file: TopK, model: PreTrainedModel, base: Path) -> None:
    """Raise UserError when the file names a token that the student has no output for; paddings of a vocabulary may differ."""
    rows = model.config.get_text_config().vocab_size
    if file.header.vocabulary > rows and (highest := file.highest()) >= rows:
        raise UserError(f"{file.path}: holds token id {highest}, but the model in {base} has {rows} tokens; use another student")


def whole_teacher(folder: Path, tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel) -> PreTrainedModel:
    """Load the teacher to distil its whole vocabulary. Raises UserError when that is not the student's."""
    teacher, theirs = load_causal(folder)
    sizes = [model.config.get_text_config().vocab_size for model in (teacher, student)]
    if tokenizer_digest(theirs) != tokenizer_digest(tokenizer) or sizes[0] != sizes[1]:
        raise UserError(
            f"{folder}: the teacher's tokenizer or vocabulary is not the student's; student.target: full needs the same"
        )
    return on_device(teacher.float()).eval()


@dataclass(frozen=True)
class Batches:
    """Makes batches of numbered rows, with what the teacher thinks of each learned position beside them."""

    data: Rows
    file: TopK
    pad_id: int
    target: Target
    found: Recalibration

    @property
    def numbered(self) -> list[dict[str, Any]]:
        """The rows, each with its number."""
        return [{**row, "number": number} for number, row in enumerate(self.data.rows)]

    def __call__(self, rows: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Return a collated batch; where the target wants them, with `top_ids` and `top_probs` [B, T, K], zero elsewhere."""
        import numpy
        import torch

        batch = collate(rows, self.pad_id)
        if self.target in ("full", "hard"):
            return batch
        spans = [(self.data.offsets[row["number"]], self.data.offsets[row["number"] + 1]) for row in rows]
        ids, probs = zip(*(self.file.read(*span) for span in spans), strict=True)
        _, learned_BT = shifted(batch["labels"])
        for name, columns in (("top_ids", ids), ("top_probs", [self.recalibrated(part) for part in probs])):
            values_NK = torch.from_numpy(numpy.concatenate(columns))
            batch[name] = values_NK.new_zeros(*learned_BT.shape, self.file.header.k)
            batch[name][learned_BT] = values_NK
        return batch

    def recalibrated(self, probs_NK: Probs) -> Probs:
        """Return the target of some positions, [N, k]."""
        import numpy

        if self.target not in WAYS:
            return probs_NK
        change, _ = WAYS[self.target]
        return change(probs_NK.astype(numpy.float64), self.found.values[self.target]).astype(numpy.float32)


def matching(target: Target, teacher: PreTrainedModel | None) -> Measure:
    """Return the loss of a batch under a target, summed over its learned positions, in nats."""
    import torch

    from tasks.distill.divergence import from_likeliest, from_teacher
    from tasks.runtime.packing import summed_loss

    def hard(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return summed_loss(model, batch)[0]

    def full(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        assert teacher is not None
        with torch.no_grad():
            teacher_NV = learned_logits(teacher, batch)
        return from_teacher(learned_logits(model, batch), teacher_NV)

    def likeliest(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        _, learned_BT = shifted(batch["labels"])
        top = (batch["top_ids"][learned_BT], batch["top_probs"][learned_BT])
        return from_likeliest(learned_logits(model, batch), *top, rest=target == "rest")

    return {"hard": hard, "full": full}.get(target, likeliest)


def distilling(model: PreTrainedModel, plan: Plan, batches: Batches, measure: Measure) -> Trainer:
    """Return a trainer whose loss is the mean of `measure` over the learned positions of the global batch."""
    from transformers import TrainingArguments

    from tasks.runtime.fit.trainer import PackedLoss, arguments, trainable

    class Distilling(PackedLoss):
        """A Trainer of a student."""

        def summed(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            """Return the divergence, summed over the learned positions."""
            return measure(model, inputs)

    rows = batches.numbered
    return Distilling(
        trainable(model, plan.place),
        arguments(TrainingArguments, plan),
        train_dataset=[rows[number] for number in plan.order],
        data_collator=batches,
    )


if __name__ == "__main__":
    launch_stage(main)
