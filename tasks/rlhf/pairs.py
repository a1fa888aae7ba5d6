"""DPO's loss in a plain loop over packed rows: the baseline that learns from the best and the worst of the same samples.

L = -log sigmoid(beta * ((log pi - log ref)(chosen) - (log pi - log ref)(rejected))) (Rafailov et al. 2023, equation 7).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from tasks.runtime.packing import IGNORED, Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Pair = tuple[Example, Example]
"""A chosen and a rejected answer, each with its prompt in front."""


def learn_pairs(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    pairs: Sequence[Pair],
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    beta: float,
    seed: int,
) -> float:
    """Fit `model` to prefer the chosen answers, with AdamW at a constant rate; return the last epoch's mean loss."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    rng, losses = random.Random(seed), [0.0]
    model.train()
    reference.eval()
    for _ in range(epochs):
        losses.clear()
        order = rng.sample(pairs, len(pairs))
        for start in range(0, len(order), batch_size):
            loss = dpo_loss(model, reference, order[start : start + batch_size], beta)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return fmean(losses)


def dpo_loss(model: PreTrainedModel, reference: PreTrainedModel, pairs: Sequence[Pair], beta: float) -> torch.Tensor:
    """Return DPO's mean loss over pairs, in nats."""
    import torch

    examples = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    with torch.no_grad():
        before_B = answer_logprobs(reference, examples)
    chosen_B, rejected_B = (answer_logprobs(model, examples) - before_B).chunk(2)
    return -torch.nn.functional.logsigmoid(beta * (chosen_B - rejected_B)).mean()


def answer_logprobs(model: PreTrainedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Return the summed log-probability of every example's learned tokens [B]; causal, so padding on the right is unseen."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    ids_BT = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in examples], device=model.device)
    labels_BT = torch.tensor([[*labels, *[IGNORED] * (width - len(labels))] for _, labels in examples], device=model.device)
    logits_BTV = model(ids_BT, use_cache=False).logits[:, :-1].float()
    loss_BT = torch.nn.functional.cross_entropy(logits_BTV.mT, labels_BT[:, 1:], ignore_index=IGNORED, reduction="none")
    return -loss_BT.sum(1)
