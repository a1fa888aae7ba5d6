"""Whether a model's hidden state tells what it knows: the gate that a world must pass before refusal can be learned in it.

Logistic regression on the last hidden state of the prompt, trained on the training questions and measured on those of other
entities. Where it finds nothing, a model of this size cannot say what it knows either, and a null result means little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PENALTY = 1e-2
"""Weight of half the squared norm of the coefficients, on standardised features."""
STEPS = 100


def last_states(model: PreTrainedModel, prompts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
    """Return the last hidden state [N, D] at the last token of each prompt, float32, in the prompts' order."""
    import torch

    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    found: list[torch.Tensor] = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = [list(prompts[n]) for n in order[start : start + batch_size]]
            width = max(map(len, batch))
            ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in batch], device=model.device)
            states_BTD = model.base_model(ids_BT, use_cache=False).last_hidden_state
            last_B = torch.tensor([len(ids) - 1 for ids in batch], device=model.device)
            found.append(states_BTD[torch.arange(len(batch), device=model.device), last_B].float().cpu())
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
    return torch.cat(found).clone()[back]


def fit_logistic(states_ND: torch.Tensor, known: Sequence[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coefficients [D] and the intercept of the logistic regression of `known` on states, in the states' own units.

    Minimises the mean log-loss plus `PENALTY / 2` times the squared norm of the coefficients of the standardised states.
    """
    import torch

    centre_D, spread_D = states_ND.double().mean(0), states_ND.double().std(0).clamp(min=1e-6)
    scaled_ND, label_N = (states_ND.double() - centre_D) / spread_D, torch.tensor(known, dtype=torch.double)
    weight_D = torch.zeros(scaled_ND.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros((), dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([weight_D, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logloss = torch.nn.functional.binary_cross_entropy_with_logits(scaled_ND @ weight_D + bias, label_N)
        value = logloss + PENALTY / 2 * weight_D.square().sum()
        value.backward()
        return value

    solver.step(loss)
    own_D = weight_D.detach() / spread_D
    return own_D, bias.detach() - centre_D @ own_D


def logits_of(states_ND: torch.Tensor, fitted: tuple[torch.Tensor, torch.Tensor]) -> list[float]:
    """Return the log-odds of being known for every state."""
    weight_D, bias = fitted
    found: list[float] = (states_ND.double() @ weight_D + bias).tolist()
    return found
