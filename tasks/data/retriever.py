"""Trains the encoder that finds, for a Lean statement, the theorems in words that are most like it: the examples of a prompt.

From TheoremLlama (Wang et al., 2024), section 3.1. A byte-level T5 encoder reads words and Lean alike; a text's vector is the
mean of its token states. For aligned pairs of a batch, and x⁻ the other items of that batch:

    L = 1 - cos(x_NL, x_FL) + 1/2 ( cos(x⁻_NL, x_FL) + cos(x_NL, x⁻_FL) )

Two equal statements in one batch would be told apart and alike at once, so a batch never has them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tasks.data.encoder import Encoder, bare, load_encoder, new_encoder
from tasks.runtime.models import set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.progress import Progress
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import read_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorems import Told

if TYPE_CHECKING:
    import torch

Pair = tuple[str, str]
"""A statement in words and in Lean, the latter without its name."""


class Params(StageParams):
    """Shape and training of the encoder."""

    section: ClassVar[str] = "retriever"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    """One encoder for each; the first is kept, the others show the spread."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads."""
    path: str | None = None
    """A byte-level T5 encoder to start from (a folder); none: a new one of the shape below."""
    hidden_size: int = Field(64, ge=8, le=4096)
    """Width; heads are 16 wide."""
    layers: int = Field(1, ge=1, le=48)
    """Layers of the encoder."""
    max_bytes: int = Field(128, ge=16, le=8192)
    """Longer statements are cut there: the vector is of their beginning."""
    epochs: int = Field(3, ge=1, le=1000)
    """Passes over the training pairs."""
    batch_size: int = Field(32, ge=2, le=4096)
    """Pairs of a batch."""
    learning_rate: float = Field(4e-3, gt=0, lt=1)
    """Peak learning rate of AdamW."""


def main(params: Params, run: Run, *, theorems: In, out: Out, scores: Out, curve: Out) -> None:
    """Train on the train split of `theorems`; publish the encoder, how it finds held-out pairs, and its loss."""
    told = read_records(theorems, Told)
    training = pairs_of([row for row in told if row.split == "train"])
    held = {split: pairs_of([row for row in told if row.split == split]) for split in ("test", "heldout")}
    if len(training) < 2:
        raise UserError(f"{theorems}: {len(training)} theorems to learn from have words; a retriever needs two at least")
    measured, rows = {}, []
    for place, seed in enumerate(params.seeds):
        encoder, losses = fit(params, training, seed, run.progress(params.epochs, "epochs", f"seed {seed}"))
        measured[str(seed)] = {
            split: measure(encoder, pairs, params.batch_size) for split, pairs in held.items() if len(pairs) > 1
        }
        rows += [{"epoch": epoch, "loss": loss, "seed": seed} for epoch, loss in enumerate(losses, 1)]
        if not place:
            with publish(out) as draft:
                encoder.save(draft, {"stage": "retriever", "summary": "Finds theorems in words that are like a Lean statement."})
    publish_json(scores, {"pairs": len(training), "chance": 1 / params.batch_size, "seeds": measured})
    publish_curve(curve, rows)


def pairs_of(told: Sequence[Told]) -> list[Pair]:
    """Return the aligned statements of the theorems that have words, each pair once."""
    pairs = [(row.Informal_statement, bare(row.Statement)) for row in told if row.Informal_statement]
    return list(dict.fromkeys(pairs))


def fit(params: Params, pairs: Sequence[Pair], seed: int, progress: Progress) -> tuple[Encoder, list[float]]:
    """Return an encoder trained on the pairs and its mean loss in each epoch."""
    import torch

    set_determinism(seed, params.threads)
    encoder = load_encoder(Path(params.path), params.max_bytes) if params.path else new_encoder(params, seed)
    rng = random.Random(seed)
    steps = params.epochs * max(1, len(pairs) // params.batch_size)
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=params.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, total_steps=steps + params.epochs + 1)
    encoder.model.train()
    losses = []
    for _ in range(params.epochs):
        said = [_step(encoder, batch, optimizer, schedule) for batch in batches(pairs, params.batch_size, rng)]
        losses.append(sum(said) / len(said))
        progress.advance(note=f"loss {losses[-1]:.3f}")
    encoder.model.eval()
    return encoder, losses


def batches(pairs: Sequence[Pair], size: int, rng: random.Random) -> list[list[Pair]]:
    """Return the pairs in random order as batches in which no statement stands twice; a pair that fits none waits for a next.

    A last batch of a single pair is left out: it has nothing to be told apart from.
    """
    waiting, found = rng.sample(list(pairs), len(pairs)), []
    while waiting:
        batch: list[Pair] = []
        seen: set[str] = set()
        later: list[Pair] = []
        for pair in waiting:
            if len(batch) < size and not seen & set(pair):
                batch.append(pair)
                seen |= set(pair)
            else:
                later.append(pair)
        found.append(batch)
        waiting = later
    return [batch for batch in found if len(batch) > 1]


def contrast(words_BH: torch.Tensor, lean_BH: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of a batch of aligned vectors; the cosines with x⁻ are means over the other items of the batch."""
    import torch

    cosine_BB = torch.nn.functional.normalize(words_BH, dim=-1) @ torch.nn.functional.normalize(lean_BH, dim=-1).T
    aligned_B = cosine_BB.diagonal()
    others = len(cosine_BB) - 1
    other_words_B = (cosine_BB.sum(0) - aligned_B) / others
    other_lean_B = (cosine_BB.sum(1) - aligned_B) / others
    return (1 - aligned_B + 0.5 * (other_words_B + other_lean_B)).mean()


def measure(encoder: Encoder, pairs: Sequence[Pair], batch: int) -> dict[str, float]:
    """Return mean cosines of aligned and other pairs, their gap, and how often the nearest of `batch` words are right."""
    words_NH, lean_NH = encoder.embed([pair[0] for pair in pairs]), encoder.embed([pair[1] for pair in pairs])
    cosine_NN = lean_NH @ words_NH.T
    count = len(pairs)
    aligned = cosine_NN.diagonal().mean().item()
    other = ((cosine_NN.sum() - cosine_NN.diagonal().sum()) / (count * (count - 1))).item()
    found = 0
    for start in range(0, count, batch):
        part = cosine_NN[start : start + batch, start : start + batch]
        found += int((part.argmax(1) == part.new_tensor(range(len(part)))).sum())
    return {"aligned": aligned, "other": other, "gap": aligned - other, "recall_at_1": found / count}


def _step(
    encoder: Encoder, batch: Sequence[Pair], optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> float:
    loss = contrast(encoder.vectors([pair[0] for pair in batch]), encoder.vectors([pair[1] for pair in batch]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.item()


if __name__ == "__main__":
    run_stage(main)
