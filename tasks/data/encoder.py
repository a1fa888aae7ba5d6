"""A byte-level T5 encoder whose mean token state is a text's vector: what the retriever trains and searches with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.runtime.models import check_folder, load_weights, write_card
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_NAME = re.compile(r"^\s*\w+\s+\S+")
_BYTES = 3
"""Id of byte 0, as in ByT5: padding, end and unknown come before."""
_AT_ONCE = 64


class Shape(Protocol):
    """What a new encoder needs to know."""

    @property
    def hidden_size(self) -> int:
        """Width."""

    @property
    def layers(self) -> int:
        """Layers."""

    @property
    def max_bytes(self) -> int:
        """Longest text."""


@dataclass
class Encoder:
    """The encoder and its limit."""

    model: PreTrainedModel
    max_bytes: int

    def vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the mean token state of each text, shape (texts, width); padding counts for nothing."""
        import torch

        rows = [[_BYTES + byte for byte in text.encode()[: self.max_bytes]] + [1] for text in texts]
        width = max(map(len, rows))
        ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        states_BTH = self.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        mask_BT1 = mask_BT[:, :, None].to(states_BTH.dtype)
        mean_BH: torch.Tensor = (states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
        return mean_BH

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the vectors of any number of texts, of length 1 each, without gradients."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            parts = [self.vectors(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write a model folder that `T5EncoderModel` and `load_encoder` load."""
        self.model.save_pretrained(folder)
        write_card(folder, card)


def new_encoder(shape: Shape, seed: int) -> Encoder:
    """Return an encoder with random weights."""
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=_BYTES + 256,
        d_model=shape.hidden_size,
        d_kv=16,
        d_ff=2 * shape.hidden_size,
        num_layers=shape.layers,
        num_heads=max(1, shape.hidden_size // 16),
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return Encoder(T5EncoderModel(config), shape.max_bytes)


def load_encoder(folder: Path, max_bytes: int) -> Encoder:
    """Load an encoder. Raises UserError for a folder that has none, or one that does not read bytes."""
    from transformers import T5EncoderModel

    check_folder(folder)
    model, missing = load_weights(T5EncoderModel, folder)
    if missing:
        raise UserError(f"{folder}: incomplete encoder: it has no weights for {', '.join(missing)}")
    if model.config.vocab_size < _BYTES + 256:
        raise UserError(f"{folder}: {model.config.vocab_size} embeddings are too few for bytes; use a byte-level T5 (ByT5)")
    return Encoder(model, max_bytes)


def bare(statement: str) -> str:
    """Return a Lean statement without keyword, name and `:=`: what it says, and nothing that the words cannot know."""
    return _NAME.sub("", statement, count=1).removesuffix(":=").strip()
