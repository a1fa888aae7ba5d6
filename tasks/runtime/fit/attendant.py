"""Runs a Trainer to its end through whatever happens: progress for people, checkpoints by the clock, good order on SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.runtime.chaos import reach
from tasks.runtime.fit.plan import Plan
from tasks.runtime.launch import check_place
from tasks.runtime.stage import Preempted


def fit(trainer: Trainer, plan: Plan, columns: Sequence[str] = ("loss", "learning_rate")) -> list[dict[str, float]]:
    """Train from the newest whole checkpoint or from the start; return its curve: `step`, `columns`, `tokens`.

    Raises Preempted when SIGTERM arrived; a checkpoint of the last finished step is then sealed. Raises UserError when the run
    was begun on another number of processes.
    """
    check_place(plan.run.checkpoints.folder, plan.place)
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
        reach("step")
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
        meet()
        if self.place.first:
            self.checkpoints.seal(self.checkpoints.folder / f"checkpoint-{state.global_step}", state.global_step)
            self.checkpoints.prune()
        meet()
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


def meet() -> None:
    """Wait until every process is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
