"""How well a model predicts held-out text: perplexity, bits per byte, and how often its likeliest token is the right one.

Each text stands alone, at the start of the context, so the numbers do not hang on how texts are batched or joined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Likelihood:
    """What a model made of some texts, summed over their predicted tokens."""

    nats: float
    """Negative log-likelihood."""
    tokens: int
    """Predicted tokens."""
    size: int
    """Bytes of those tokens as UTF-8 text."""
    right: int
    """Tokens that were the model's likeliest."""

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean over all predicted tokens: long texts count for more than short ones."""
        return math.exp(self.nll)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / math.log(2) / self.size

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the likeliest: the skill `next_token`."""
        return self.right / self.tokens


def likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int, batch_size: int
) -> Likelihood:
    """Measure `model` on the first `max_tokens` predicted tokens of each text; the model is put in eval mode.

    The first token that the tokenizer gives a text is context: its start mark where it sets one, else the text's first token.
    Texts of no predicted token count for nothing. Raises ValueError when none is left.
    """
    encoded = [ids[: max_tokens + 1] for ids in tokenizer(list(texts))["input_ids"]]
    encoded = sorted((ids for ids in encoded if len(ids) > 1), key=len)
    if not encoded:
        raise ValueError("no text has a token to predict; perplexity needs texts of two tokens or more")
    model.eval()
    nats, right = 0.0, 0
    for start in range(0, len(encoded), batch_size):
        loss, hits = _measure(model, encoded[start : start + batch_size])
        nats, right = nats + loss, right + hits
    decoded = tokenizer.batch_decode([ids[1:] for ids in encoded], skip_special_tokens=True)
    return Likelihood(nats, sum(len(ids) - 1 for ids in encoded), sum(len(text.encode()) for text in decoded), right)


def _measure(model: PreTrainedModel, texts: list[list[int]]) -> tuple[float, int]:
    """Return the nats and the right tokens of a batch, padded on the right, where a causal model cannot see it."""
    import torch

    width = max(map(len, texts))
    ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts], device=model.device)
    real_BT = torch.tensor([[1] * (len(ids) - 1) + [0] * (width - len(ids)) for ids in texts], device=model.device).bool()
    with torch.inference_mode():
        logits_NV = model(ids_BT, use_cache=False).logits[:, :-1][real_BT].float()
        targets_N = ids_BT[:, 1:][real_BT]
        nats_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
        return float(nats_N.double().sum()), int((logits_NV.argmax(-1) == targets_N).sum())
