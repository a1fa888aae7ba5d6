"""How varied texts are: what a policy loses when it learns to repeat what is rewarded."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(texts: Sequence[str], n: int) -> float:
    """Return distinct-n: different word n-grams over all word n-grams of `texts` (Li et al. 2016); 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
