"""Learning answers, and how likely a model finds them: a plain loop over packed batches, the loss on answer tokens alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.runtime.models import encode_completion, encode_prompt
from tasks.runtime.packing import IGNORED, Example, collate, learned_logits, loss_of, pack, summed_loss
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.rlhf.penalty import Penalty

Mix = Callable[[Sequence[Example]], Sequence[Example]]
"""Adds examples of its own to those of a batch."""


def encode(tokenizer: PreTrainedTokenizerBase, answers: Sequence[tuple[str, str]], context: int) -> list[Example]:
    """Return each (prompt, answer) as token ids and labels, the prompt's labels IGNORED; UserError if one exceeds `context`."""
    examples: list[Example] = []
    for prompt, answer in answers:
        head, tail = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, answer)
        if (length := len(head) + len(tail)) > context:
            raise UserError(
                f"the prompt {prompt[:60]!r} and its answer have {length} tokens, the model's context is {context}; "
                "shorten the prompts or lower max_new_tokens"
            )
        examples.append((head + tail, [IGNORED] * len(head) + tail))
    return examples


@dataclass(frozen=True)
class Step:
    """What an optimizer step saw."""

    loss: float
    """Mean loss of the learned tokens, in nats, without the penalty."""
    penalty: float
    """What was added to it."""


def learn(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    penalty: Penalty | None = None,
) -> float:
    """Fit `model` to the examples as `steps` does; return the last epoch's mean loss."""
    taken = list(
        steps(
            model,
            examples,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            penalty=penalty,
        )
    )
    last = taken[-(len(taken) // epochs) :]
    return sum(step.loss for step in last) / len(last)


def steps(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    penalty: Penalty | None = None,
    mix: Mix | None = None,
) -> Iterator[Step]:
    """Fit `model` to the examples with AdamW at a constant rate, gradients clipped at norm 1; yield every step once it is taken.

    A step takes `batch_size` examples, with what `mix` adds to them, and the mean over their learned tokens; how they are packed
    changes nothing but speed.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    rng = random.Random(seed)
    model.train()
    for _ in range(epochs):
        for batch in _batches(model, rng.sample(examples, len(examples)), batch_size, mix):
            logits_NV = learned_logits(model, batch)
            loss = loss_of(logits_NV, batch)
            extra = penalty(model, batch, logits_NV) if penalty else torch.zeros(())
            (loss + extra if penalty else loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield Step(loss.item(), extra.item())


def logprob(model: PreTrainedModel, examples: Sequence[Example], batch_size: int) -> float:
    """Return the mean log-probability of the examples' learned tokens, in nats per token."""
    import torch

    total, count = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for batch in _batches(model, examples, batch_size):
            loss, tokens = summed_loss(model, batch)
            total, count = total - loss.item(), count + int(tokens)
    return total / count


def _batches(
    model: PreTrainedModel, examples: Sequence[Example], batch_size: int, mix: Mix | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the examples in their order, `batch_size` at a time, packed into rows as long as the longest of them."""
    for start in range(0, len(examples), batch_size):
        chosen = examples[start : start + batch_size]
        if mix:
            chosen = mix(chosen)
        rows = pack(chosen, max(len(ids) for ids, _ in chosen))
        yield {name: values.to(model.device) for name, values in collate(rows, pad_id=0).items()}
