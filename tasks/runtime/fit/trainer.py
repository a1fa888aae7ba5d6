"""What the training stages share of the Hugging Face Trainer: its arguments, the loss of packed rows, measuring and publishing.

All of it holds on one process and on several: what a batch weighs does not hang on how it is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan
from tasks.runtime.launch import Place
from tasks.runtime.models import save_model
from tasks.runtime.packing import PackedRow, collate, summed_loss
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Arguments = TypeVar("Arguments", bound=TrainingArguments)
Row = TypeVar("Row")
Tensors = dict[str, torch.Tensor]
TOKENS_A_PASS = 16_384
"""Most tokens of one forward pass of one process: enough to keep a device busy, little enough for its memory."""


def arguments(kind: type[Arguments], plan: Plan, rows_a_pass: int | None = None, **more: Any) -> Arguments:
    """Return the Trainer's arguments: nothing is reported, evaluated or saved but by the attendant of this folder.

    A pass of one process takes at most `rows_a_pass` rows, by default as many as hold TOKENS_A_PASS tokens.
    """
    params, place = plan.params, plan.place
    most = TOKENS_A_PASS // params.max_length if rows_a_pass is None else rows_a_pass
    micro, passes = place.split(params.batch_size * plan.answers, most)
    return kind(
        output_dir=str(plan.checkpoints.folder),
        max_steps=plan.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        warmup_steps=round(params.warmup * plan.steps),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        seed=params.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=place.gpu,
        use_cpu=not place.gpu,
        activation_checkpointing=place.gpu,
        dataloader_pin_memory=place.gpu,
        deepspeed=place.zero_config,
        **more,
    )


def trainable(model: PreTrainedModel, place: Place) -> PreTrainedModel:
    """Return the model with fp32 weights, which small steps need; ZeRO-3 has it in pieces already and keeps an fp32 copy."""
    return model if place.zero == 3 else model.float()


def check_context(model: PreTrainedModel, params: FitParams, folder: Path) -> None:
    """Raise UserError when a row of `max_length` tokens is longer than the model can take."""
    most = model.config.get_text_config().max_position_embeddings
    if params.max_length > most:
        raise UserError(
            f"{params.section}.max_length: {params.max_length} tokens, but the model in {folder} takes at most {most}; "
            f"set {params.section}.max_length to {most} or less"
        )


class PackedLoss(Trainer):
    """A Trainer whose loss is the mean over the learned tokens of the global batch, however it is split."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what the Trainer takes, and have it count the learned tokens of every step over all processes."""
        super().__init__(*args, **more)
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def summed(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss summed over the learned tokens of a batch: what a trainer of another loss overrides."""
        return summed_loss(model, inputs)[0]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return this pass's share of the step's loss; gradients are averaged over processes, so it is scaled up by them."""
        assert not return_outputs
        assert isinstance(num_items_in_batch, torch.Tensor)
        return self.summed(model, inputs) * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)


def total(
    trainer: Trainer, plan: Plan, batches: Sequence[Tensors], measure: Callable[[Any, Tensors], torch.Tensor]
) -> list[float]:
    """Return the sum of `measure(model, batch)` over all batches, shared out among the processes.

    A process without a batch of its own computes the first once more and counts it as nothing: under ZeRO-3 all must take part.
    """
    model: Any = trainer.model_wrapped
    model.eval()
    mine = batches[plan.place.rank :: plan.place.processes]
    found = []
    with torch.no_grad():
        for number in range(math.ceil(len(batches) / plan.place.processes)):
            batch = mine[number] if number < len(mine) else batches[0]
            sums = measure(model, {name: values.to(trainer.args.device) for name, values in batch.items()}).double()
            found.append(sums if number < len(mine) else torch.zeros_like(sums))
    return list(trainer.accelerator.reduce(torch.stack(found).sum(0), reduction="sum").tolist())


def mean_loss(trainer: Trainer, plan: Plan, rows: Sequence[PackedRow], pad_id: int) -> float:
    """Return the mean loss of the learned tokens of packed rows, in nats."""
    batches = [collate(chunk, pad_id) for chunk in chunks(rows, TOKENS_A_PASS // plan.params.max_length)]
    loss, count = total(trainer, plan, batches, lambda model, batch: torch.stack(summed_loss(model, batch)))
    return loss / count


def chunks(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Return `rows` in pieces of `size`, at least 1; the last one may be shorter."""
    return [rows[start : start + max(1, size)] for start in range(0, len(rows), max(1, size))]


def publish_model(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, plan: Plan, out: Path, summary: str) -> None:
    """Publish the trained model as a plain folder; under ZeRO-3 every process must call it, to give its share of the weights."""
    state = gathered(trainer, plan)
    if plan.place.first:
        with publish(out) as draft:
            write_model(trainer, tokenizer, plan, draft, summary, state)


def gathered(trainer: Trainer, plan: Plan) -> dict[str, torch.Tensor] | None:
    """Return all weights where every process has only a share of them (ZeRO-3), else None; every process must call it."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped) if plan.place.zero == 3 else None


def write_model(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    folder: Path,
    summary: str,
    state: dict[str, torch.Tensor] | None,
) -> None:
    """Write the model as it is now, ready to answer; its config goes on as it was."""
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    card = {"stage": plan.run.stage, "summary": summary, **plan.params.model_dump()}
    before, model.config.use_cache = model.config.use_cache, True
    save_model(model, tokenizer, folder, card, state)
    model.config.use_cache = before
