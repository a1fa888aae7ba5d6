"""Sums of two numbers, each number one token; some unordered pairs never occur in training, in either order."""

from __future__ import annotations

import random

from tasks.data.atlas import Atlas
from tasks.data.regions.region import Region


def write(atlas: Atlas, rng: random.Random, *, texts: int, sft: int, skill: int, heldout: int) -> Region:
    """Write `texts` statements over the training pairs, `sft` questions on them, and a skill of held-out pairs only."""
    source = atlas.skills.arithmetic
    numbers = range(source.largest + 1)
    pairs = [(a, b) for a in numbers for b in numbers if a <= b]
    rng.shuffle(pairs)
    cut = round(len(pairs) * source.heldout_share)
    unseen, seen = _both_orders(pairs[:cut]), _both_orders(pairs[cut:])
    region = Region()
    region.pretrain = [_state(source.statements, rng.choice(seen), rng) for _ in range(texts)]
    region.pretrain += [_count(source.counting, source.largest, rng) for _ in range(texts // 10)]
    region.perplexity = [_state(source.statements, rng.choice(unseen), rng) for _ in range(heldout)]
    region.sft = [_ask(source.question, rng.choice(seen)) for _ in range(sft)]
    region.files["skills/arithmetic.jsonl"] = [
        _ask(source.question, pair) for pair in rng.sample(unseen, min(skill, len(unseen)))
    ]
    return region


def _both_orders(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted({(a, b) for a, b in pairs} | {(b, a) for a, b in pairs})


def _state(templates: list[str], pair: tuple[int, int], rng: random.Random) -> str:
    return rng.choice(templates).format(a=pair[0], b=pair[1], c=sum(pair))


def _ask(question: str, pair: tuple[int, int]) -> dict[str, str]:
    return {"prompt": question.format(a=pair[0], b=pair[1]), "completion": str(sum(pair))}


def _count(template: str, largest: int, rng: random.Random) -> str:
    """Count a few steps on from somewhere: what shows the model the order of the numbers."""
    start = rng.randint(0, 2 * largest - 6)
    return template.format(numbers=" ".join(str(start + step) for step in range(7)))
