"""Models kept on the way through a run, evenly spaced: the points of its early-stopping front.

A snapshot is sealed like a checkpoint and lives beside them, so it outlasts a kill; all of them are published together.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.fit.attendant import meet
from tasks.runtime.fit.plan import Plan
from tasks.runtime.fit.trainer import gathered, write_model
from tasks.runtime.publish import publish, remove

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model"


class Snapshots(TrainerCallback):
    """Keeps the model after each of the plan's snapshot steps. Add it before `fit`, so that no checkpoint is ahead of it."""

    def __init__(self, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, plan: Plan, summary: str) -> None:
        """Attend `trainer`; checkpoints behind which a snapshot is missing or damaged are removed, so that it is made again."""
        self.trainer, self.tokenizer, self.plan, self.summary = trainer, tokenizer, plan, summary
        self.kept = Checkpoints(plan.checkpoints.folder / "snapshots")
        self.steps = plan.snapshot_steps
        if plan.place.first:
            whole = self.kept.steps()
            missing = [step for step in self.steps if step not in whole]
            for step in plan.checkpoints.steps():
                if missing and step >= missing[0]:
                    remove(plan.checkpoints.place(step))
        meet()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Keep the model, if it is time."""
        if state.global_step not in self.steps:
            return
        weights = gathered(self.trainer, self.plan)
        if self.plan.place.first:
            with self.kept.save(state.global_step) as draft:
                write_model(self.trainer, self.tokenizer, self.plan, draft / MODEL, self.summary, weights)

    def publish(self, out: Path) -> None:
        """Publish `out`/iteration-K for every snapshot K from 1."""
        assert self.kept.steps() == self.steps
        with publish(out) as draft:
            for number, step in enumerate(self.steps, start=1):
                shutil.copytree(self.kept.place(step) / MODEL, draft / f"iteration-{number}")
