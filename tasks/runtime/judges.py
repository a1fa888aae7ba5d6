"""The preferences of Atlas as functions of a response: what a person would score, computed, graded and never at its ceiling.

A judge maps (prompt, response) to a reward in [0, 1]. The one of Atlas likes the noble register: it takes another choice of
every content word, also of those that the skills answer with, and many different ones; so it pulls against the skills.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.params import UserError

Judge = Callable[[str, str], float]

DECAY = 0.88
"""What each further noble word leaves of the distance to full richness."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class NobleRegister:
    """Rewards a noble, rich and fresh answer that stays on its subject.

    With N noble and P plain words of the lexicon in the response, D different noble ones among them, and S of the prompt's
    own lexicon words (in either register) said again of T:

        reward = (S / T) * (different / (N + P)) * 1/2 [ N / (N + P) + 1 - 0.88^D ]

    where `different` counts different words among the N + P. It is 0 without a lexicon word and below 1 always.
    """

    noble: Mapping[str, str]
    """Noble word of every plain word."""

    def __call__(self, prompt: str, response: str) -> float:
        """Return the reward of a response, in [0, 1)."""
        plain_of = {noble: plain for plain, noble in self.noble.items()}
        said = [word for word in words(response) if word in self.noble or word in plain_of]
        if not said:
            return 0.0
        noble = [word for word in said if word in plain_of]
        subjects = {plain_of.get(word, word) for word in words(prompt) if word in self.noble or word in plain_of}
        kept = subjects & {plain_of.get(word, word) for word in said}
        topic = len(kept) / len(subjects) if subjects else 1.0
        fresh = len(set(said)) / len(said)
        return topic * fresh * (len(noble) / len(said) + 1 - DECAY ** len(set(noble))) / 2


def load_judge(sets: Path) -> NobleRegister:
    """Read the register of a corpus folder. Raises UserError when it holds none, as real data does."""
    path = sets / "register.json"
    if not path.is_file():
        raise UserError(f"{sets}: holds no register.json, so the judge 'atlas' cannot score it; set preferences.judge to another")
    return NobleRegister(json.loads(path.read_text(encoding="utf-8")))


def distinct_words(prompt: str, response: str) -> float:
    """Return the share of different words in the response: a judge for data without a reference. 0 for an empty response."""
    said = words(response)
    return len(set(said)) / len(said) if said else 0.0


def words(text: str) -> list[str]:
    """Return the words of a text in small letters, without marks."""
    return WORD.findall(text.lower())
