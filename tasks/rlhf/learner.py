"""Actor, critic and reference of PPO on one process or several: what they say of answers, a step on them, and their state.

Accelerate carries it: plain torch on one process, deepspeed's ZeRO-1 or 2 under the launcher. A step takes the same answers and
divides by the same count wherever it runs, so place changes numbers by rounding only.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from tasks.rlhf.critic import ActorCritic, Critic, adapted, judged, rows
from tasks.rlhf.ppo_loss import KLController, policy_loss, value_loss
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.rollout import Rollout
from tasks.runtime.launch import Place
from tasks.runtime.models import load_causal, on_device, save_model
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
SUMS = ("policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl")
"""What is told of a step, as means over its actions; approx_kl estimates KL(policy that drew them || policy now), in nats."""


@dataclass(frozen=True)
class Experience:
    """Rollouts of one iteration, ready to be learned from; tensors are [N, A], answers by actions."""

    rollouts: Sequence[Rollout]
    real: torch.Tensor
    """Where there is an action: the critic learns from all of them."""
    mask: torch.Tensor
    """Where the policy learns, a part of `real`."""
    logprobs: torch.Tensor
    """Under the policy that drew the answers, in nats."""
    values: torch.Tensor
    """Of the critic then, in units of the reward."""
    advantages: torch.Tensor
    targets: torch.Tensor
    """What the values should be."""


class Learner:
    """The networks, the optimizer and the KL controller; all that an iteration hands to the next."""

    def __init__(self, params: PPOParams, place: Place, policy: Path) -> None:
        """Start from `policy`, in float32 on CPU. Raises UserError for ZeRO-3, and for a batch that cannot be shared evenly."""
        if place.zero == 3:
            raise UserError("PPO samples from the policy, which ZeRO-3 cuts in pieces; set TEMPER_ZERO=2")
        self.params, self.place = params, place
        self.micro, self.passes = place.split(params.batch_size, params.micro_batch)
        self.accelerator = _accelerator(params, place, self.micro, self.passes)
        self.actor, self.tokenizer = load_causal(policy)
        self.stored = self.actor.dtype
        critic = Critic(copy.deepcopy(self.actor.float().base_model))
        self.adapters = adapted(self.actor, params.lora_rank, params.lora_scale) if params.lora_rank else None
        if self.adapters:
            adapted(critic.trunk, params.lora_rank, params.lora_scale)
        self.reference = None if self.adapters else on_device(load_causal(policy)[0]).requires_grad_(False)
        self.kl = KLController(params.kl_weight, params.kl_target, params.kl_gain)
        both = ActorCritic(self.actor, critic)
        groups = [
            {"params": [weight for weight in part.parameters() if weight.requires_grad], "lr": rate}
            for part, rate in ((self.actor, params.learning_rate), (critic, params.critic_learning_rate))
        ]
        self.both: Any
        self.both, self.optimizer = self.accelerator.prepare(both, torch.optim.AdamW(groups, weight_decay=0.0))

    def foresee(self, rollouts: Sequence[Rollout]) -> list[tuple[list[float], list[float], list[float]]]:
        """Return for each answer the log-probabilities of its actions under actor and reference, and the values before them."""
        self.both.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(rollouts), self.params.micro_batch):
                chosen = rollouts[start : start + self.params.micro_batch]
                batch = rows([one.prompt_ids for one in chosen], [one.actions for one in chosen], self.accelerator.device)
                logprobs_BA, _, values_BA = self.both(batch, self.params.temperature)
                with self.adapters.disable_adapter() if self.adapters else nullcontext():
                    reference_BA, _ = judged(self.reference or self.actor, batch, self.params.temperature)
                tables = [table.tolist() for table in (logprobs_BA, reference_BA, values_BA)]
                found += [
                    tuple(line[: len(one.actions)] for line in lines)
                    for one, lines in zip(chosen, zip(*tables, strict=True), strict=True)
                ]
        return found

    def update(self, experience: Experience, order: Sequence[int]) -> dict[str, float]:
        """Take one optimizer step for every `batch_size` answers of `order`; return means over the steps.

        The policy learns from the actions in `experience.mask` alone, the critic from all: advantages of the ones build on the
        values of the others. Raises UserError when the loss or its gradient is no longer a finite number.
        """
        self.both.train()
        size = self.params.batch_size
        steps = [self._step(experience, order[start : start + size]) for start in range(0, len(order), size)]
        return {name: math.fsum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def _step(self, experience: Experience, batch: Sequence[int]) -> dict[str, float]:
        count = experience.mask[batch].sum().clamp(min=1), experience.real[batch].sum()
        length = [len(one.prompt_ids) + len(one.actions) for one in experience.rollouts]
        mine = sorted(batch[self.place.rank :: self.place.processes], key=length.__getitem__)  # like by like: less padding
        total, norm = torch.zeros(len(SUMS), dtype=torch.float64), 0.0
        for start in range(0, len(mine), self.micro):
            with self.accelerator.accumulate(self.both):
                loss, sums = self._loss(experience, mine[start : start + self.micro], *count)
                self.accelerator.backward(loss * self.passes * self.place.processes)  # it takes the mean over both
                if self.accelerator.sync_gradients:
                    found = self.accelerator.clip_grad_norm_(self.both.parameters(), self.params.max_grad_norm)
                    norm = float(self.both.get_global_grad_norm() if found is None else found)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += sums.cpu().double()
        told = dict(zip(SUMS, map(math.fsum, zip(*self.gather([total.tolist()]), strict=True)), strict=True)) | {
            "grad_norm": norm
        }
        if not all(map(math.isfinite, told.values())):
            section = self.params.section
            raise UserError(f"the loss or its gradient is no longer finite ({told}); lower {section}.learning_rate")
        return told

    def _loss(
        self, experience: Experience, chosen: Sequence[int], learned: torch.Tensor, real: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this pass's share of the loss of a step with so many learned and real actions, and of its `SUMS`."""
        params, device = self.params, self.accelerator.device
        rollouts = [experience.rollouts[index] for index in chosen]
        batch = rows([one.prompt_ids for one in rollouts], [one.actions for one in rollouts], device)
        width = batch.actions.shape[1]
        mask_BA, old_BA, old_values_BA, advantages_BA, targets_BA = (
            table[chosen, :width].to(device)
            for table in (experience.mask, experience.logprobs, experience.values, experience.advantages, experience.targets)
        )
        logprobs_BA, entropy_BA, values_BA = self.both(batch, params.temperature)
        policy, clipped = policy_loss(logprobs_BA, old_BA, advantages_BA, mask_BA, params.clip)
        value = value_loss(values_BA, old_values_BA, targets_BA, batch.real, params.value_clip)
        entropy = torch.where(mask_BA, entropy_BA, 0.0).sum()
        moved = torch.where(mask_BA, old_BA - logprobs_BA, 0.0).sum()
        policy, entropy, moved, clipped = (sum_ / learned.to(device) for sum_ in (policy, entropy, moved, clipped))
        value = value / real.to(device)
        loss = policy + params.value_weight * value - params.entropy_weight * entropy
        return loss, torch.stack([policy, value, entropy, clipped, moved]).detach()

    def gather(self, mine: list[T]) -> list[T]:
        """Return the items of all processes, in the order of the processes; every process must call it."""
        if self.place.processes == 1:
            return mine
        found: list[list[T]] = [[] for _ in range(self.place.processes)]
        torch.distributed.all_gather_object(found, mine)
        return [item for items in found for item in items]

    def save(self, folder: Path) -> None:
        """Write all that a later iteration needs into an existing folder; every process must call it."""
        self.accelerator.save_state(str(folder))
        if self.place.first:
            (folder / "kl.json").write_text(json.dumps(asdict(self.kl)), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up the state that `save` wrote; every process must call it."""
        self.accelerator.load_state(str(folder))
        self.kl = KLController(**json.loads((folder / "kl.json").read_text(encoding="utf-8")))

    def publish(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the actor as a plain model folder, adapters merged, in the dtype the policy came in."""
        if self.adapters:
            whole: PreTrainedModel = copy.deepcopy(self.adapters).merge_and_unload()
        else:
            whole = copy.deepcopy(self.actor)
        torch.nn.Module.to(whole, self.stored)
        save_model(whole, self.tokenizer, folder, card)


def _accelerator(params: PPOParams, place: Place, micro: int, passes: int) -> Any:
    """Return the Accelerator of this place, with deepspeed's configuration filled in where it says "auto"."""
    from accelerate import Accelerator, DeepSpeedPlugin

    plugin = None
    if place.zero_config:
        config = json.loads(Path(place.zero_config).read_text(encoding="utf-8"))
        config |= {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": passes}
        config |= {
            "train_batch_size": params.batch_size,
            "gradient_clipping": params.max_grad_norm,
            "bf16": {"enabled": place.gpu},
        }
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    return Accelerator(
        cpu=not place.gpu,
        mixed_precision="bf16" if plugin and place.gpu else "no",
        gradient_accumulation_steps=passes,
        deepspeed_plugin=plugin,
    )
