"""Actor, critic and reference of PPO on one process or several: what they say of answers, a step on them, and their state.

Accelerate carries it: plain torch on one process, deepspeed's ZeRO-1 or 2 under the launcher. A step takes the same answers and
divides by the same count wherever it runs, so place changes numbers by rounding only.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from tasks.rlhf.critic import ActorCritic, Critic, judged, rows
from tasks.rlhf.lora import merged, with_adapter
from tasks.rlhf.ppo_loss import KLController, hold_loss, policy_loss, value_loss
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.rollout import Rollout
from tasks.runtime.launch import Place
from tasks.runtime.models import derive, load_causal, on_device, save_model, set_determinism
from tasks.runtime.params import UserError

T = TypeVar("T")
SUMS = ("policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl", "held_kl")
"""What is told of a step, as means over its actions; approx_kl estimates KL(policy that drew them || policy now), held_kl
that from the reference on the actions that are not learned from; both in nats."""


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
    reference: torch.Tensor
    """Log-probabilities under the reference policy, in nats."""


@dataclass(frozen=True)
class Actions:
    """Answers of one pass, and what is known of their actions, [B, A]: what a policy loss is made of."""

    rollouts: Sequence[Rollout]
    logprobs: torch.Tensor
    """Under the policy as it is, in nats; has a gradient."""
    told: torch.Tensor
    """Log-probabilities of the learner's K `tokens` in the place of each action, [B, A, K]; has a gradient."""
    old: torch.Tensor
    """Log-probabilities under the policy that drew the actions."""
    advantages: torch.Tensor
    mask: torch.Tensor
    """Which actions are learned from."""


class Learner:
    """The networks, the optimizer and the KL controller; all that an iteration hands to the next."""

    tokens: Sequence[int] = ()
    """Tokens whose log-probabilities the policy loss wants to know in the place of every action."""

    def __init__(self, params: PPOParams, place: Place, policy: Path) -> None:
        """Start from `policy`, in float32 on CPU. Raises UserError for ZeRO-3, and for a batch that cannot be shared evenly."""
        if place.zero == 3:
            raise UserError("PPO samples from the policy, which ZeRO-3 cuts in pieces; set TEMPER_ZERO=2")
        self.params, self.place = params, place
        self.micro, self.passes = place.split(params.batch_size, params.micro_batch)
        set_determinism(derive(params.seed, 0), place.threads(params.threads))
        self.accelerator = _accelerator(params, place, self.micro, self.passes)
        self.actor, self.tokenizer = load_causal(policy)
        self.stored = self.actor.dtype
        twin = copy.deepcopy(self.actor.float())
        self.adapters = with_adapter(self.actor, params.lora_rank) if params.lora_rank else None
        if self.adapters:
            with_adapter(twin, params.lora_rank)
        self.critic = Critic(twin.base_model)
        self.reference = None if self.adapters else on_device(load_causal(policy)[0]).requires_grad_(False)
        self.kl = KLController(params.kl_weight, params.kl_target, params.kl_gain)
        both = ActorCritic(self.actor, self.critic)
        groups = [
            {"params": [weight for weight in part.parameters() if weight.requires_grad], "lr": rate}
            for part, rate in ((self.actor, params.learning_rate), (self.critic, params.critic_learning_rate))
        ]
        self.both: Any
        self.both, self.optimizer = self.accelerator.prepare(both, torch.optim.AdamW(groups, weight_decay=0.0))

    def foresee(self, rollouts: Sequence[Rollout]) -> list[tuple[list[float], list[float], list[float]]]:
        """Return for each answer the log-probabilities of its actions under actor and reference, and the values before them."""
        self.both.eval()
        alike = sorted(range(len(rollouts)), key=lambda index: _length(rollouts[index]))
        found: dict[int, tuple[list[float], list[float], list[float]]] = {}
        with torch.no_grad():
            for start in range(0, len(rollouts), self.params.micro_batch):
                numbers = alike[start : start + self.params.micro_batch]
                chosen = [rollouts[index] for index in numbers]
                batch = rows([one.prompt_ids for one in chosen], [one.actions for one in chosen], self.accelerator.device)
                logprobs_BA, _, _, values_BA = self.both(batch, self.params.temperature)
                with self.adapters.disable_adapter() if self.adapters else nullcontext():
                    reference_BA, _, _ = judged(self.reference or self.actor, batch, self.params.temperature)
                tables = [table.tolist() for table in (logprobs_BA, reference_BA, values_BA)]
                for index, logprobs, reference, values in zip(numbers, *tables, strict=True):
                    end = len(rollouts[index].actions)
                    found[index] = logprobs[:end], reference[:end], values[:end]
        return [found[index] for index in range(len(rollouts))]

    def update(self, experience: Experience, order: Sequence[int]) -> dict[str, float]:
        """Take one optimizer step for every `batch_size` answers of `order`; return means over the steps.

        The policy learns from the actions in `experience.mask` alone, the critic from all: advantages of the ones build on the
        values of the others. Raises UserError when the loss or its gradient is no longer a finite number.
        """
        self.both.train()
        self.actor.eval()
        self.critic.eval()  # no dropout: the ratio is 1 until a step is taken
        size = self.params.batch_size
        steps = [self._step(experience, order[start : start + size]) for start in range(0, len(order), size)]
        return {name: math.fsum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def _step(self, experience: Experience, batch: Sequence[int]) -> dict[str, float]:
        learned, real = experience.mask[batch].sum(), experience.real[batch].sum()
        count = learned.clamp(min=1), real, (real - learned).clamp(min=1)
        share = batch[self.place.rank :: self.place.processes]
        mine = sorted(share, key=lambda index: _length(experience.rollouts[index]))  # passes of like length have little padding
        total, norm = torch.zeros(len(SUMS), dtype=torch.float64), 0.0
        for start in range(0, len(mine), self.micro):
            with self.accelerator.accumulate(self.both):
                loss, sums = self._loss(experience, mine[start : start + self.micro], *count)
                self.accelerator.backward(loss * self.passes * self.place.processes)  # it takes the mean over both
                if self.accelerator.sync_gradients:
                    norm = float(self.accelerator.clip_grad_norm_(self.both.parameters(), self.params.max_grad_norm))
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += sums.cpu().double()
        sums_of_all = map(math.fsum, zip(*self.gather([total.tolist()]), strict=True))
        told = {**dict(zip(SUMS, sums_of_all, strict=True)), "grad_norm": norm}
        if not all(map(math.isfinite, told.values())):
            section = self.params.section
            raise UserError(f"the loss or its gradient is no longer finite ({told}); lower {section}.learning_rate")
        return told

    def _loss(
        self, experience: Experience, chosen: Sequence[int], learned: torch.Tensor, real: torch.Tensor, held: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this pass's share of the loss of a step with so many learned, real and held actions, and of its `SUMS`."""
        params, device = self.params, self.accelerator.device
        rollouts = [experience.rollouts[index] for index in chosen]
        batch = rows([one.prompt_ids for one in rollouts], [one.actions for one in rollouts], device)
        width = batch.actions.shape[1]
        known = experience
        mask_BA, old_BA, old_values_BA, advantages_BA, targets_BA, reference_BA = (
            table[chosen, :width].to(device)
            for table in (known.mask, known.logprobs, known.values, known.advantages, known.targets, known.reference)
        )
        logprobs_BA, entropy_BA, told_BAK, values_BA = self.both(batch, params.temperature, self.tokens)
        actions = Actions(rollouts, logprobs_BA, told_BAK, old_BA, advantages_BA, mask_BA)
        policy, clipped = self.policy_loss(actions)
        value = value_loss(values_BA, old_values_BA, targets_BA, batch.real, params.value_clip)
        entropy = torch.where(mask_BA, entropy_BA, 0.0).sum()
        moved = torch.where(mask_BA, old_BA - logprobs_BA, 0.0).sum()
        policy, entropy, moved, clipped = (sum_ / learned.to(device) for sum_ in (policy, entropy, moved, clipped))
        value = value / real.to(device)
        off = hold_loss(logprobs_BA, reference_BA, batch.real & ~mask_BA) / held.to(device)
        loss = policy + params.value_weight * value - params.entropy_weight * entropy
        if params.hold_weight:
            loss = loss + params.hold_weight * off
        return loss, torch.stack([policy, value, entropy, clipped, moved, off]).detach()

    def policy_loss(self, actions: Actions) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the policy minimises, summed over the actions it learns from, and how many of them are clipped."""
        return policy_loss(actions.logprobs, actions.old, actions.advantages, actions.mask, self.params.clip)

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
        whole = merged(copy.deepcopy(self.adapters)) if self.adapters else copy.deepcopy(self.actor)
        torch.nn.Module.to(whole, self.stored)
        save_model(whole, self.tokenizer, folder, card)


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt_ids) + len(rollout.actions)


def _accelerator(params: PPOParams, place: Place, micro: int, passes: int) -> Any:
    """Return the Accelerator of this place, with deepspeed's configuration filled in where it says "auto"."""
    from accelerate import Accelerator, DeepSpeedPlugin

    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # that tied weights are saved once is no news
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
