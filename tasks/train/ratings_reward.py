"""The reward model of several outputs: learns what each source of ratings says of its own attributes, by plain regression.

The outputs are linear in the last hidden state, the loss is the mean squared error over the ratings that are there (Wang et al.
2024, Directional Preference Alignment, section 2.1). A rating that is absent weighs nothing: not as a zero, not in the count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.runtime.directions import ATTRIBUTES
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import (
    check_folder,
    check_vocabulary,
    encode_completion,
    encode_prompt,
    load_tokenizer,
    load_weights,
    set_determinism,
)
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.rate import Rater, check_scale, rate
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

Tensors = dict[str, "torch.Tensor"]


class Params(FitParams):
    """Training of the reward model; `batch_size` counts rated answers."""

    section: ClassVar[str] = "dpa-reward"
    attributes: list[str] = Field(default=list(ATTRIBUTES), min_length=1)
    """What the outputs rate, in their order; it goes into the model's config, and all who use the model go by it."""
    rating_offset: float = Field(50.0, ge=-1000, le=1000)
    """The rating that an output of 0 stands for."""
    rating_unit: float = Field(25.0, gt=0, le=1000)
    """Ratings for each unit of an output; one for all attributes, so that an angle between them means something."""


class Rated(Record):
    """An answer as one source rates it; null where it does not say."""

    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    ratings: dict[str, float | None]
    source: str


@dataclass(frozen=True)
class Row:
    """A rated answer as token ids, and its target for every output; None where there is none."""

    ids: list[int]
    targets: list[float | None]


def main(params: Params, run: Run, *, base: In, ratings: In, out: Out, scores: Out, curve: Out) -> None:
    """Train a reward model that starts from `base` on `ratings`/ratings.jsonl; measure it on `ratings`/ratings-test.jsonl."""
    check_folder(base)
    place = here()
    tokenizer = load_tokenizer(base)
    learned = encode(tokenizer, ratings / "ratings.jsonl", params)
    heldout = read_records(ratings / "ratings-test.jsonl", Rated)

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import check_context, publish_model

    plan = Plan(run, params, place, [len(row.ids) for row in learned])
    set_determinism(params.seed, place.threads(params.threads))
    model = with_named_outputs(base, params)
    check_vocabulary(base, model, tokenizer)
    check_context(model, params, base)
    trainer = regression(model, tokenizer, learned, plan)
    points = thinned(fit(trainer, plan))
    rater = Rater(model, tokenizer, params.attributes, params.rating_offset, params.rating_unit)
    measured = measure(rater, heldout, params.batch_size)
    publish_model(trainer, tokenizer, plan, out, f"A reward model that rates {', '.join(params.attributes)}.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(scores, {"loss": points[-1]["loss"], **measured, "answers": len(learned), "tokens": plan.seen[-1]})
        run.checkpoints.clear()


def encode(tokenizer: PreTrainedTokenizerBase, source: Path, params: Params) -> list[Row]:
    """Return the rated answers of a file, cut at `max_length` tokens, with targets in the outputs' units.

    Raises UserError when an attribute of params is never rated.
    """
    records = read_records(source, Rated)
    for name in params.attributes:
        if all(record.ratings.get(name) is None for record in records):
            raise UserError(f"{source}: no answer has a rating of {name!r}; take it out of dpa-reward.attributes")
    return [
        Row(
            (encode_prompt(tokenizer, record.prompt) + encode_completion(tokenizer, record.response))[: params.max_length],
            targets(record.ratings, params),
        )
        for record in records
    ]


def targets(ratings: Mapping[str, float | None], params: Params) -> list[float | None]:
    """Return the target of every output, found by the attribute's name; None where the source does not rate it."""
    found = [ratings.get(name) for name in params.attributes]
    return [None if value is None else (value - params.rating_offset) / params.rating_unit for value in found]


def collate(rows: Sequence[Row], pad_id: int) -> Tensors:
    """Stack rated answers, padded on the right: ids and mask [B, T], `targets` [B, K] (0 where absent), and `labels` [B, K].

    `labels` are 1 where a rating is there and IGNORED where not, which is how the Trainer counts what a step learns from.
    """
    import torch

    width = max(len(row.ids) for row in rows)
    return {
        "input_ids": torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        "targets": torch.tensor([[value or 0.0 for value in row.targets] for row in rows]),
        "labels": torch.tensor([[IGNORED if value is None else 1 for value in row.targets] for row in rows]),
    }


def summed_error(outputs_BK: torch.Tensor, targets_BK: torch.Tensor, labels_BK: torch.Tensor) -> torch.Tensor:
    """Return the sum of squared errors over the ratings that are there."""
    import torch

    error_BK = torch.where(labels_BK == IGNORED, 0.0, outputs_BK.float() - targets_BK)
    return error_BK.square().sum()


def regression(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], plan: Plan) -> Trainer:
    """Return a Trainer of the mean squared error over all ratings of a step that are there, however the step is split."""
    from transformers import TrainingArguments

    from tasks.runtime.fit.trainer import PackedLoss, arguments, trainable

    class MaskedRegression(PackedLoss):
        """The Trainer with the loss of ratings, some of which are absent."""

        def compute_loss(
            self,
            model: Any,
            inputs: Tensors,
            return_outputs: bool = False,
            num_items_in_batch: torch.Tensor | int | None = None,
        ) -> torch.Tensor:
            """Return this pass's share of the step's loss."""
            assert not return_outputs
            assert num_items_in_batch is not None
            outputs_BK = model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
            error = summed_error(outputs_BK, inputs["targets"], inputs["labels"])
            return error * self.accelerator.num_processes / max(1, int(num_items_in_batch))

    return MaskedRegression(
        trainable(model, plan.place),
        arguments(TrainingArguments, plan),
        train_dataset=[rows[row] for row in plan.order],
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
    )


def with_named_outputs(base: Path, params: Params) -> PreTrainedModel:
    """Return the model in `base` with new outputs, drawn at random and named in its config."""
    from transformers import AutoModelForSequenceClassification

    names = dict(enumerate(params.attributes))
    model, missing = load_weights(
        AutoModelForSequenceClassification, base, id2label=names, label2id={name: number for number, name in names.items()}
    )
    if lost := [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]:
        raise UserError(f"{base}: incomplete model folder: it has no weights for {', '.join(lost)}")
    model.config.update({"rating_offset": params.rating_offset, "rating_unit": params.rating_unit})
    return model


def measure(rater: Rater, heldout: Sequence[Rated], batch_size: int) -> dict[str, dict[str, float]]:
    """Return mean squared error and Spearman's correlation with the ratings by attribute, and how the outputs spread.

    Raises UserError when two attributes are not on one scale.
    """
    from scipy import stats

    found = rate(rater, [(record.prompt, record.response) for record in heldout], batch_size)
    spread = check_scale(found, rater.names, "dpa-reward on ratings-test.jsonl")
    scores: dict[str, dict[str, float]] = {}
    for name in rater.names:
        rows = zip(found, heldout, strict=True)
        pairs = [(ours[name], given) for ours, row in rows if (given := row.ratings.get(name)) is not None]
        squares = [(ours - given) ** 2 for ours, given in pairs]
        scores[name] = {"mse": fmean(squares), "spearman": float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)}
        scores[name] |= {"sd": spread[name], "mean": fmean(values[name] for values in found)}
    return scores


if __name__ == "__main__":
    launch_stage(main)
