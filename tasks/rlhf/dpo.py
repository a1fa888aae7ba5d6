"""Direct preference optimisation: the policy learns which of two answers is better, without a reward model and without sampling.

With h = beta * (log pi(chosen) / pi_start(chosen) - log pi(rejected) / pi_start(rejected)), the loss is -log sigmoid(h)
(Rafailov et al. 2023, equation 7). The reference is the policy it starts from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.rlhf.penalised import Penalised, PenalisedParams, chosen_penalty
from tasks.runtime.fit.plan import Plan, renamed, thinned
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.models import check_folder, encode_completion, encode_prompt, load_causal, load_tokenizer, set_determinism
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Preference, read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

LOGGED = {
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
}
"""Columns of the curve by TRL's names; rewards are beta * log pi / pi_start, and accuracy says how often chosen has more."""


class Params(PenalisedParams):
    """Training by DPO; `batch_size` counts pairs, and `beta` is what keeps it near its start."""

    section: ClassVar[str] = "dpo"
    beta: float = Field(0.1, gt=0)
    """How dearly the policy pays for leaving its start: larger stays nearer."""


@dataclass
class Pairs:
    """Comparisons as token ids, and what their length did to them."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    """`prompt_ids`, `chosen_ids` and `rejected_ids`."""
    cut: int = 0
    """Answers whose end was cut off."""
    skipped: int = 0
    """Pairs left out: nothing told the two answers apart, or the prompt left no room for one."""


def main(params: Params, run: Run, *, policy: In, preferences: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune `policy` on `preferences`/train.jsonl; publish `out`/iteration-K for every snapshot K from 1."""
    check_folder(policy)
    place = here()
    set_determinism(params.seed, place.threads(params.threads))
    tokenizer = load_tokenizer(policy)
    pairs = encode(tokenizer, preferences / "train.jsonl", params)

    from tasks.runtime.fit.attendant import fit
    from tasks.runtime.fit.snapshots import Snapshots

    lengths = [2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in pairs.rows]
    plan = Plan(run, params, place, lengths, snapshots=params.snapshots)
    trainer = dpo_trainer(policy, tokenizer, pairs, plan)
    snapshots = Snapshots(trainer, tokenizer, plan, "A policy tuned on preferences (DPO).")
    trainer.add_callback(snapshots)
    points = thinned(renamed(fit(trainer, plan, ("loss", *LOGGED, "learning_rate")), LOGGED))
    if place.first:
        snapshots.publish(out)
        publish_curve(curve, points)
        counts = {"pairs": len(pairs.rows), "cut": pairs.cut, "skipped": pairs.skipped, "tokens": plan.seen[-1]}
        publish_json(scores, {**{name: points[-1][name] for name in ("loss", "accuracy", "margin")}, **counts})
        run.checkpoints.clear()


def encode(tokenizer: PreTrainedTokenizerBase, source: Path, params: Params) -> Pairs:
    """Return the comparisons of a file, none longer than `max_length`; what is longer loses the end of its answer.

    A pair that then reads the same has no gradient and is left out. Raises UserError when none is left.
    """
    found = Pairs()
    for record in read_records(source, Preference):
        prompt = encode_prompt(tokenizer, record.prompt)
        room = max(0, params.max_length - len(prompt))
        whole = [encode_completion(tokenizer, answer) for answer in (record.chosen, record.rejected)]
        chosen, rejected = (ids[:room] for ids in whole)
        found.cut += sum(len(ids) > room for ids in whole)
        if chosen == rejected:
            found.skipped += 1
        else:
            found.rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    if not found.rows:
        raise UserError(f"{source}: no pair differs within dpo.max_length: {params.max_length} tokens; raise it")
    return found


def dpo_trainer(policy: Path, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, plan: Plan) -> Trainer:
    """Return TRL's trainer on pairs that are encoded already; its reference is what `policy` holds, loaded once more."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from tasks.runtime.fit.trainer import arguments, check_context, trainable

    class PairTrainer(Penalised, DPOTrainer):
        """TRL's trainer, which would render and encode the pairs itself."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    params: Any = plan.params
    settings = arguments(DPOConfig, plan, beta=params.beta, max_length=None)
    model, _ = load_causal(policy)
    check_context(model, params, policy)
    trainer = PairTrainer(
        trainable(model, plan.place),
        args=settings,
        train_dataset=Dataset.from_list(pairs.rows).select(plan.order),
        processing_class=tokenizer,
    )
    trainer.penalty = chosen_penalty(params, policy, plan.place)
    return trainer


if __name__ == "__main__":
    launch_stage(main)
