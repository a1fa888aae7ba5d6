"""Forward Kullback-Leibler divergence of a student from what a teacher thinks, summed over positions, in nats.

What becomes of the probability outside the teacher's k tokens is exact, in one of two ways. A target that sums to 1 over the k
has none outside; the student's own probabilities are those of its softmax over the whole vocabulary, so whatever it puts outside
costs it, and the optimum is the target and zero outside. (Renormalised over the k alone, nothing would hold the student back
from spending nearly all of its mass elsewhere.) A target of raw probabilities leaves a rest, which is one more outcome: that
the token is none of the k. Its divergence is that of the distributions over k + 1 outcomes, and the rest is the student's to
share out.
"""

from __future__ import annotations

import torch


def from_likeliest(logits_NV: torch.Tensor, ids_NK: torch.Tensor, probs_NK: torch.Tensor, *, rest: bool) -> torch.Tensor:
    """Return `sum_n sum_i q_i (log q_i - log p_i)`, a scalar: q the target over the k tokens, p the student's whole softmax.

    With `rest`, one more term `r (log r - log(1 - sum_i p_i))`, r = 1 - sum_i q_i. A token of no probability adds nothing.
    """
    log_z_N1 = logits_NV.logsumexp(-1, keepdim=True)
    total = _divergence(probs_NK, logits_NV.gather(1, ids_NK) - log_z_N1)
    if not rest or ids_NK.shape[1] == logits_NV.shape[1]:
        return total
    others_N1 = logits_NV.scatter(1, ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
    return total + _divergence((1 - probs_NK.sum(-1, keepdim=True)).clamp(min=0), others_N1 - log_z_N1)


def from_teacher(logits_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """Return the divergence from the teacher's whole softmax, a scalar; its logits are of the same vocabulary."""
    return torch.nn.functional.kl_div(logits_NV.log_softmax(-1), teacher_NV.log_softmax(-1), reduction="sum", log_target=True)


def _divergence(target: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Return the sum of `q (log q - log p)`; 0 log 0 is 0."""
    return torch.special.xlogy(target, target).sum() - (target * logprobs).sum()
