"""What a region hands to the corpus. A later region is one more function that returns this; nothing else moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Rows = list[dict[str, Any]]


@dataclass
class Region:
    """The texts and records of one region."""

    pretrain: list[str] = field(default_factory=list)
    """Texts the base model learns from."""
    perplexity: list[str] = field(default_factory=list)
    """Texts of the same kinds that it never sees."""
    sft: Rows = field(default_factory=list)
    """Questions with answers (`prompt`, `completion`) for instruction tuning."""
    files: dict[str, Rows] = field(default_factory=dict)
    """Records of its own by file name: skills, prompts, and the truth that later stages measure against."""
    words: set[str] = field(default_factory=set)
    """Words it invented."""
