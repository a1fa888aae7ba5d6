"""Trains a prover on block data, in the order it comes in: easy theorems first, each behind the ones before it.

From TheoremLlama (Wang et al., 2024), section 3.2. The order is the method, so nothing here may shuffle: every pass over the data
goes from the first block to the last. Blocks that share a forward pass stand end to end without seeing each other, so not a token
computed is padding, however unequal they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.runtime.blocks import Blocks, Learned, digest
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, load_causal, load_tokenizer, set_determinism
from tasks.runtime.packing import IGNORED, Example, collate, join
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run
from tasks.runtime.theorem_prompt import load_layout, save_layout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer


class Params(FitParams):
    """Training of the prover."""

    section: ClassVar[str] = "prover"
    epochs: float = Field(1.0, ge=1, le=1000)
    """Passes over the sorted blocks, each from the easiest to the hardest; a whole number."""
    learned: Learned = "target"
    """Which tokens the loss counts: those of the target, or also those of the instruction in front of it."""


@dataclass(frozen=True)
class SortedPlan(Plan):
    """A plan that goes through the rows as they are sorted, once in every pass."""

    @cached_property
    def order(self) -> list[int]:
        """Row numbers of the whole run; a pass that does not end with a whole batch takes its last rows twice."""
        count, batch = len(self.lengths), self.params.batch_size
        again = [count - 1 - number % count for number in range(-count % batch)]
        return sorted([*range(count), *again]) * round(self.params.epochs)


@dataclass(frozen=True)
class Rows:
    """The rows of a run in its order, each put together when the Trainer asks for it."""

    blocks: Blocks
    order: Sequence[int]
    learned: Learned

    def __len__(self) -> int:
        """Return the number of rows of the whole run."""
        return len(self.order)

    def __getitem__(self, place: int) -> Example:
        """Return the row at a place in the run."""
        return self.blocks.row(self.order[place], self.learned)


def main(params: Params, run: Run, *, base: In, blocks: In, out: Out, scores: Out, curve: Out) -> None:
    """Train the model in `base`, or the one there for the way in which theorems are written, on the block data in `blocks`."""
    data, layout = Blocks.load(blocks), load_layout(blocks)
    base = base if (base / "config.json").is_file() or not (base / layout.comments).is_dir() else base / layout.comments
    check_folder(base)
    tokenizer = load_tokenizer(base)
    check(params, data, digest(tokenizer), str(blocks), str(base))
    place = here()
    set_determinism(params.seed, place.threads(params.threads))

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import check_context, gathered, write_model

    plan = SortedPlan(run, params, place, data.lengths.tolist())

    def load() -> PreTrainedModel:
        model, _ = load_causal(base)
        check_context(model, params, base)
        return model

    trainer = block_trainer(load, Rows(data, plan.order, params.learned), plan)
    points = thinned(fit(trainer, plan))
    state = gathered(trainer, plan)
    if not plan.place.first:
        return
    with publish(out) as draft:
        write_model(trainer, tokenizer, plan, draft, "A prover: it writes a Lean proof of a theorem after some examples.", state)
        save_layout(layout, draft)
    learned = sum(sum(label != IGNORED for label in data.row(row, params.learned)[1][1:]) for row in range(len(data)))
    publish_curve(curve, points)
    publish_json(
        scores,
        {
            "loss": points[-1]["loss"],
            "blocks": len(data),
            "tokens": plan.seen[-1],
            "learned_tokens": learned,
        },
    )
    run.checkpoints.clear()


def check(params: Params, data: Blocks, vocabulary: str, blocks: str, base: str) -> None:
    """Raise UserError when the blocks are too long, of another tokenizer, or the passes are not whole."""
    if params.epochs != round(params.epochs):
        raise UserError(f"{params.section}.epochs: {params.epochs:g} is not a whole number of passes over the sorted blocks")
    if (longest := int(data.lengths.max())) > params.max_length:
        raise UserError(f"{blocks}: a block has {longest} tokens; set {params.section}.max_length: {longest} or more")
    if data.vocabulary != vocabulary:
        raise UserError(f"{blocks}: made with another tokenizer than that of {base}; run prover-data with the model's own")


def block_trainer(load: Callable[[], PreTrainedModel], rows: Rows, plan: SortedPlan) -> Trainer:
    """Return the Trainer, which takes the blocks one after the other. `load` gives the model once the place is settled."""
    from torch.utils.data import SequentialSampler
    from transformers import TrainingArguments

    from tasks.runtime.fit.trainer import PackedLoss, arguments, trainable

    settings = arguments(TrainingArguments, plan, rows_a_pass(plan))
    trainer = PackedLoss(trainable(load(), plan.place), settings, train_dataset=rows, data_collator=end_to_end)
    assert isinstance(trainer._get_train_sampler(), SequentialSampler), "the order of the blocks is the method"
    return trainer


def rows_a_pass(plan: Plan) -> int:
    """Return how many blocks share a forward pass of one process.

    On a CPU attention between blocks that stand in one row is computed and thrown away, so a row is no longer than one context.
    """
    from tasks.runtime.fit.trainer import TOKENS_A_PASS

    room = TOKENS_A_PASS if plan.place.gpu else plan.params.max_length
    return max(1, room // max(plan.lengths))


def end_to_end(rows: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Stack the blocks of a pass into one row, without padding."""
    return collate([join(rows)], pad_id=0)


if __name__ == "__main__":
    launch_stage(main)
