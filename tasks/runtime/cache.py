"""A key-value cache with room ahead: a new token is written in place, instead of copying everything before it once a step.

Measured on a 1.3M-parameter Llama with 256 rows: the copying took 45 % of the sampling time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, shape (rows, heads, tokens, head size), as views into buffers with room for more tokens."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, owner: torch.Tensor, room: int) -> None:
        """Take row `owner[i]` of the given keys and values as row i, and leave room for `room` more tokens."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._keys, self._values, self._tokens = _spread(keys, owner, room), _spread(values, owner, room), keys.shape[-2]
        self._view()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens; return all so far."""
        start, self._tokens = self._tokens, self._tokens + key_states.shape[-2]
        assert self._tokens <= self._keys.shape[-2], "the cache was made for fewer tokens"
        self._keys[..., start : self._tokens, :] = key_states
        self._values[..., start : self._tokens, :] = value_states
        return self._view()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`, not more than there are, in that order."""
        rows, tokens = len(beam_idx), self._tokens
        for buffer in (self._keys, self._values):
            buffer[:rows, :, :tokens] = buffer[beam_idx, :, :tokens]
        self._keys, self._values = self._keys[:rows], self._values[:rows]
        self._view()

    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Point `keys` and `values`, which the cache reads, at the filled part of the buffers."""
        filled = self._keys[..., : self._tokens, :], self._values[..., : self._tokens, :]
        self.keys, self.values = filled
        return filled


def spread(cache: Cache, owner: torch.Tensor, room: int) -> None:
    """Make row `owner[i]` of the cache its row i, with room for `room` more tokens in every layer that only ever grows."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            assert layer.keys is not None
            assert layer.values is not None
            cache.layers[index] = RoomyLayer(layer.keys, layer.values, owner, room)
        else:
            layer.reorder_cache(cast(torch.LongTensor, owner))


def select(cache: Cache, rows: torch.Tensor) -> None:
    """Keep the given rows of the cache, in that order."""
    cache.reorder_cache(cast(torch.LongTensor, rows))


def _spread(old: torch.Tensor, owner: torch.Tensor, room: int) -> torch.Tensor:
    """Return a buffer with the rows `owner` of `old` and room behind them."""
    _, heads, tokens, size = old.shape
    buffer = old.new_empty(len(owner), heads, tokens + room, size)
    buffer[..., :tokens, :] = old[owner]
    return buffer
