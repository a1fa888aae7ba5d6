"""The reward model: learns which of two answers is better, as a Bradley-Terry model of paired comparisons.

P(chosen beats rejected) = sigmoid(r(prompt, chosen) - r(prompt, rejected)) (Bradley and Terry 1952); r is one output on the
last token of the policy that answered. The loss is the negative log-likelihood of the comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

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
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Preference, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Params(FitParams):
    """Training of the reward model; `batch_size` counts pairs."""

    section: ClassVar[str] = "reward"
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of matrices by AdamW; norms and biases are left alone."""


@dataclass
class Pairs:
    """Comparisons as token ids, and what their length did to them."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    """`chosen_ids` and `rejected_ids`, each with the prompt in front."""
    cut: int = 0
    """Answers whose end was cut off."""
    skipped: int = 0
    """Pairs left out because nothing told the two answers apart."""


def main(params: Params, run: Run, *, base: In, preferences: In, out: Out, scores: Out, curve: Out) -> None:
    """Train a reward model that starts from `base` on `preferences`/train.jsonl; measure it on `preferences`/test.jsonl."""
    check_folder(base)
    place = here()
    tokenizer = load_tokenizer(base)
    learned = encode(tokenizer, preferences / "train.jsonl", params)
    heldout = encode(tokenizer, preferences / "test.jsonl", params)

    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.trainer import arguments, check_context, chunks, publish_model, total, trainable

    plan = Plan(run, params, place, [len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in learned.rows])
    settings = arguments(RewardConfig, plan, max_length=None)
    set_determinism(params.seed, place.threads(params.threads))
    model = with_one_output(base)
    check_vocabulary(base, model, tokenizer)
    check_context(model, params, base)
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    trainer = RewardTrainer(
        trainable(model, place),
        settings,
        train_dataset=Dataset.from_list(learned.rows).select(plan.order),
        data_collator=collate,
        processing_class=tokenizer,
    )
    points = thinned(fit(trainer, plan, ("loss", "accuracy", "margin", "learning_rate")))
    right, margin, count = total(trainer, plan, [collate(chunk) for chunk in chunks(heldout.rows, params.batch_size)], compare)
    publish_model(trainer, tokenizer, plan, out, "A reward model: one number for a prompt with its answer, higher is better.")
    if plan.place.first:
        publish_curve(curve, points)
        publish_json(
            scores,
            {
                "loss": points[-1]["loss"],
                "heldout_accuracy": right / count,
                "heldout_margin": margin / count,
                "pairs": len(learned.rows),
                "heldout_pairs": len(heldout.rows),
                "cut": learned.cut + heldout.cut,
                "skipped": learned.skipped + heldout.skipped,
                "tokens": plan.seen[-1],
            },
        )
        run.checkpoints.clear()


def encode(tokenizer: PreTrainedTokenizerBase, source: Path, params: Params) -> Pairs:
    """Return the comparisons of a file, none longer than `max_length`; what is longer loses the end of its answer.

    A pair that reads the same after cutting is left out. Raises UserError when none is left.
    """
    found = Pairs()
    for record in read_records(source, Preference):
        prompt = encode_prompt(tokenizer, record.prompt)
        whole = [prompt + encode_completion(tokenizer, answer) for answer in (record.chosen, record.rejected)]
        chosen, rejected = (ids[: params.max_length] for ids in whole)
        found.cut += sum(len(ids) > params.max_length for ids in whole)
        if chosen == rejected:
            found.skipped += 1
        else:
            found.rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    if not found.rows:
        raise UserError(f"{source}: no pair differs within reward.max_length: {params.max_length} tokens; raise it")
    return found


def with_one_output(base: Path) -> PreTrainedModel:
    """Return the model in `base` with its output layer replaced by one new output, drawn at random."""
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    with suppress_seqcls_warning():
        model, missing = load_weights(AutoModelForSequenceClassification, base, num_labels=1)
    if lost := [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]:
        raise UserError(f"{base}: incomplete model folder: it has no weights for {', '.join(lost)}")
    return model


def compare(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return (pairs judged right, sum of reward differences, pairs) of a batch whose first half is chosen, second rejected."""
    import torch

    rewards_B = model(**batch, use_cache=False).logits.squeeze(-1).float()
    chosen, rejected = rewards_B.chunk(2)
    return torch.stack(
        [(chosen > rejected).sum().float(), (chosen - rejected).sum(), torch.tensor(float(len(chosen))).to(chosen)]
    )


if __name__ == "__main__":
    launch_stage(main)
