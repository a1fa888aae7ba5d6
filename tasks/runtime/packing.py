"""Packing: many short examples in one row, none of which sees another, so that hardly a token computed is padding.

Positions restart with every example, and `transformers` reads from them where one ends: its mask keeps attention inside an
example when it gets positions and no mask of its own. The loss of packed rows is that of the same examples one by one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Batch = Mapping[str, torch.Tensor]

IGNORED = -100
"""Label of a token that is not learned."""

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one example, equally long; a label is the token itself or IGNORED."""


class PackedRow(TypedDict):
    """One row of several examples, end to end; the three lists are equally long."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]


def pack(examples: Sequence[Example], max_length: int) -> list[PackedRow]:
    """Pack examples into rows of at most `max_length` tokens: longest first, each into the fullest row that still takes it.

    Best-fit decreasing never needs more than 11/9 of the fewest possible rows (Johnson 1974). Raises ValueError for an
    example that is empty or longer than a row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for number in sorted(range(len(examples)), key=lambda n: -len(examples[n][0])):
        length = len(examples[number][0])
        if not 0 < length <= max_length:
            raise ValueError(f"example {number} has {length} tokens and a row takes 1 to {max_length}; cut it first")
        place = bisect_left(free, (length, 0))
        space, row = free.pop(place) if place < len(free) else (max_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        insort(free, (space - length, row))
    return [join(examples[number] for number in row) for row in rows]


def join(examples: Iterable[Example]) -> PackedRow:
    """Put examples end to end. The first token of each has no context, so it is never learned."""
    row = PackedRow(input_ids=[], labels=[], position_ids=[])
    for ids, labels in examples:
        assert len(ids) == len(labels)
        row["input_ids"] += ids
        row["labels"] += [IGNORED, *labels[1:]]
        row["position_ids"] += range(len(ids))
    return row


def collate(rows: Sequence[PackedRow], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack rows into int64 tensors [B, T], T the longest row: `input_ids`, `labels`, `position_ids`, and no attention mask.

    Padding stands at position 0, so every padded token is an example of its own and seen by none.
    """
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def stack(lists: Iterable[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([values + [fill] * (width - len(values)) for values in lists])

    return {
        "input_ids": stack((row["input_ids"] for row in rows), pad_id),
        "labels": stack((row["labels"] for row in rows), IGNORED),
        "position_ids": stack((row["position_ids"] for row in rows), 0),
    }


def shifted(labels_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token [B, T] that follows each position, and whether it is learned there, bool [B, T]."""
    import torch

    targets_BT = torch.nn.functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
    return targets_BT, targets_BT != IGNORED


def learned_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the logits [N, V], in fp32, at the positions of a batch that predict a learned token, row by row.

    Only their hidden states go through the output layer, which makes up much of a small model and, in instruction tuning,
    would mostly compute what nobody reads.
    """
    _, learned_BT = shifted(batch["labels"])
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][learned_BT], *inputs[1:]))
    try:
        logits_NV = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    finally:
        hook.remove()
    return logits_NV.float()


def summed_loss(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of the learned tokens of a batch, in nats and summed, and how many they are; both scalars."""
    return _summed(learned_logits(model, batch), batch)


def packed_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of a batch's learned tokens, in nats; a batch without any counts as zero."""
    return loss_of(learned_logits(model, batch), batch)


def loss_of(logits_NV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return what `packed_loss` does, of logits that `learned_logits` gave."""
    loss, count = _summed(logits_NV, batch)
    return loss / count.clamp(min=1)


def _summed(logits_NV: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    targets_BT, learned_BT = shifted(batch["labels"])
    return torch.nn.functional.cross_entropy(logits_NV, targets_BT[learned_BT], reduction="sum"), learned_BT.sum()
