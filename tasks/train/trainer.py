"""What the training stages share: the Trainer's arguments, the order of the data, the loss of packed rows, the curve.

The order of all rows of a run is drawn beforehand from the seed, so a step trains on the same rows on any number of
processes and after any interruption.
"""

from __future__ import annotations

import itertools
import math
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.launch import Place
from tasks.runtime.models import save_model
from tasks.runtime.packing import PackedRow, collate, summed_loss
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish
from tasks.runtime.stage import Preempted
from tasks.train.params import FitParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.runtime.stage import Run

Arguments = TypeVar("Arguments", bound=TrainingArguments)
TOKENS_A_PASS = 16_384
"""Most tokens of one forward pass of one process: enough to keep a device busy, little enough for its memory."""
Tensors = dict[str, torch.Tensor]
Row = TypeVar("Row")
REACHED = ("step", "learning_rate", "tokens")
"""Columns of a curve that tell where a run has got to; the others measure it."""
POINTS = 200
"""Most rows of a published curve; in a longer run each row is the mean of several steps."""


@dataclass(frozen=True)
class Plan:
    """What a run trains on, in which order, and where."""

    run: Run
    params: FitParams
    place: Place
    lengths: Sequence[int]
    """Tokens of every row of the data, padding left out."""

    @cached_property
    def order(self) -> list[int]:
        """Row numbers of the whole run, in whole batches: one shuffle an epoch, the last one cut or another begun."""
        count, batch = len(self.lengths), self.params.batch_size
        total = max(1, round(count * self.params.epochs / batch)) * batch
        draw = random.Random(self.params.seed)
        epochs = (draw.sample(range(count), count) for _ in itertools.count())
        return list(itertools.islice(itertools.chain.from_iterable(epochs), total))

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.order) // self.params.batch_size

    @cached_property
    def seen(self) -> list[int]:
        """Tokens seen after every step."""
        tokens = list(itertools.accumulate(self.lengths[row] for row in self.order))
        return tokens[self.params.batch_size - 1 :: self.params.batch_size]

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run; another place keeps its state in other pieces and starts anew."""
        return Checkpoints(self.run.checkpoints.folder / self.place.name)


def arguments(kind: type[Arguments], plan: Plan, **more: Any) -> Arguments:
    """Return the Trainer's arguments: nothing is reported, evaluated or saved but by this room's own callback."""
    params, place = plan.params, plan.place
    micro, passes = place.split(params.batch_size, TOKENS_A_PASS // params.max_length)
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


class PackedLoss(Trainer):
    """A Trainer whose loss is the mean over the learned tokens of the global batch, however it is split."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what the Trainer takes, and have it count the learned tokens of every step over all processes."""
        super().__init__(*args, **more)
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

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
        loss, _ = summed_loss(model, inputs)
        return loss * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)


class Attendant(TrainerCallback):
    """Stands by a Trainer: shows progress, seals checkpoints by the clock, and ends the run in good order on SIGTERM."""

    def __init__(self, plan: Plan) -> None:
        """Attend a run of `plan`."""
        self.plan, self.place, self.checkpoints = plan, plan.place, plan.checkpoints
        self.preempted_at: int | None = None
        self._stop = False
        self._saved = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Start the clocks."""
        self._first, self._started = state.global_step, time.monotonic()
        self._progress = self.plan.run.progress(state.max_steps - state.global_step, "steps")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Ask for a checkpoint when one is due or the run must stop; all processes decide alike."""
        due = time.monotonic() - self._saved >= self.place.checkpoint_seconds
        stop, due = self._agree(self._stop, due)
        control.should_save = (stop or due) and state.global_step < state.max_steps
        if stop and control.should_save:
            control.should_training_stop = True
            self.preempted_at = state.global_step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Show a step's loss and the rate of the run."""
        logs = more["logs"]
        if self.place.first and "loss" in logs:
            before = self.plan.seen[self._first - 1] if self._first else 0
            rate = (self.plan.seen[state.global_step - 1] - before) / (time.monotonic() - self._started)
            self._progress.advance(note=f"loss {logs['loss']:.4f}  {rate:,.0f} tokens/s")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Seal what the Trainer wrote; it counts from then on."""
        _meet()
        if self.place.first:
            self.checkpoints.seal(self.checkpoints.folder / f"checkpoint-{state.global_step}", state.global_step)
            self.checkpoints.prune()
        _meet()
        self._saved = time.monotonic()

    def on_sigterm(self, signum: int, frame: Any) -> None:
        """Remember that the run must stop; the step at work is finished first."""
        self._stop = True

    def _agree(self, *wishes: bool) -> list[bool]:
        """Return which wishes any process has: a save is a joint act, and clocks differ."""
        if self.place.processes == 1:
            return list(wishes)
        asked = torch.tensor([float(wish) for wish in wishes], device="cuda" if self.place.gpu else "cpu")
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return [bool(wish) for wish in asked.tolist()]


def _meet() -> None:
    """Wait until every process is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def fit(trainer: Trainer, plan: Plan, columns: Sequence[str] = ("loss", "learning_rate")) -> list[dict[str, float]]:
    """Train from the newest whole checkpoint or from the start; return its curve: `step`, `columns`, `tokens`.

    Raises Preempted when SIGTERM arrived; a checkpoint of the last finished step is then sealed.
    """
    attendant = Attendant(plan)
    trainer.add_callback(attendant)
    trainer.remove_callback(PrinterCallback)
    newest = plan.checkpoints.latest()
    before = signal.signal(signal.SIGTERM, attendant.on_sigterm)
    try:
        trainer.train(resume_from_checkpoint=str(newest[1]) if newest else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    if attendant.preempted_at is not None:
        raise Preempted(f"step {attendant.preempted_at} is in a checkpoint, from which it goes on when run again")
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [
        {"step": entry["step"], **{name: entry[name] for name in columns}, "tokens": seen}
        for entry, seen in zip(steps, plan.seen, strict=True)
    ]


def thinned(curve: Sequence[dict[str, float]], points: int = POINTS) -> list[dict[str, float]]:
    """Return at most `points` rows of a curve, each standing for several steps: their last step, the means of their measures."""
    size = math.ceil(len(curve) / points)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [
        {
            name: last if name in REACHED else math.fsum(row[name] for row in group) / len(group)
            for name, last in group[-1].items()
        }
        for group in groups
    ]


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
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if plan.place.zero == 3 else None
    if not plan.place.first:
        return
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    model.config.use_cache = True
    card = {"stage": plan.run.stage, "summary": summary, **plan.params.model_dump()}
    with publish(out) as draft:
        save_model(model, tokenizer, draft, card, state)


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
