"""The proxy that HMA maximises: how likely a model finds the answers it should keep giving, the prompts not counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.runtime.models import encode_completion, encode_prompt
from tasks.runtime.packing import IGNORED, Example, collate, pack, summed_loss
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, answers: Sequence[tuple[str, str]], context: int) -> list[Example]:
    """Return each (prompt, response) as token ids and labels, the prompt's labels IGNORED; UserError if one exceeds `context`."""
    examples: list[Example] = []
    for prompt, response in answers:
        head, tail = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, response)
        if (length := len(head) + len(tail)) > context:
            raise UserError(f"the prompt {prompt[:60]!r} and its answer have {length} tokens, the model's context is {context}")
        examples.append((head + tail, [IGNORED] * len(head) + tail))
    return examples


def negative_logprob(model: PreTrainedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Return -1/N * sum over the N answers of log pi(answer | prompt), in nats per answer, as a scalar to differentiate."""
    rows = pack(examples, max(len(ids) for ids, _ in examples))
    batch = {name: values.to(model.device) for name, values in collate(rows, pad_id=0).items()}
    loss, _ = summed_loss(model, batch)
    return loss / len(examples)


def logprob(model: PreTrainedModel, examples: Sequence[Example], batch: int) -> float:
    """Return the mean log-likelihood of the answers, in nats per answer, computed `batch` answers at a time."""
    import torch

    with torch.inference_mode():
        chunks = [examples[first : first + batch] for first in range(0, len(examples), batch)]
        return -sum(len(chunk) * negative_logprob(model, chunk).item() for chunk in chunks) / len(examples)
