"""The world of wishes: what can be wished for, prompts that ask for some of it, and answers of every length and quality.

An answer's length, and how much of it is to the point, are drawn apart from each other and from any direction it is told of: so
a policy that learns from them can be led anywhere, and is not led anywhere yet.
"""

from __future__ import annotations

import random

from tasks.runtime.wishes import Wishes

# fmt: off
THINGS = (
    "apple", "arrow", "bacon", "barley", "basket", "bread", "bucket", "butter", "candle", "carrot", "cherry", "chisel",
    "cider", "copper", "cotton", "feather", "flour", "garlic", "hammer", "honey", "kettle", "ladder", "lemon", "linen",
    "melon", "mustard", "needle", "onion", "pepper", "pitcher", "plum", "pumpkin", "ribbon", "rope", "saddle", "salt",
    "thread", "turnip", "vinegar", "walnut",
)
# fmt: on
TALK = ("well", "indeed", "surely", "also", "moreover", "truly", "perhaps", "kindly")
"""Words that say nothing."""
FEWEST, MOST = 4, 8
"""Things that a prompt wishes for."""
TO_THE_POINT = (0.2, 1.0)
"""Range of an answer's chance to meet a wish with each word."""
WRONG = 0.3
"""Chance of a word that meets none to name a wrong thing."""

WORLD = Wishes(THINGS)


def prompts(rng: random.Random, count: int, taken: set[frozenset[str]]) -> list[str]:
    """Return `count` prompts that wish for different sets of things, none of them in `taken`, to which they are added."""
    found: list[str] = []
    while len(found) < count:
        wished = rng.sample(THINGS, rng.randint(FEWEST, MOST))
        if frozenset(wished) not in taken:
            taken.add(frozenset(wished))
            found.append(" ".join(wished))
    return found


def answer(rng: random.Random, prompt: str) -> str:
    """Return an answer of 1 to `longest` words, some of which meet a wish that no earlier one met."""
    left, chance = prompt.split(), rng.uniform(*TO_THE_POINT)
    strange = [thing for thing in THINGS if thing not in left]
    rng.shuffle(left)
    said: list[str] = []
    for _ in range(rng.randint(1, WORLD.longest)):
        if left and rng.random() < chance:
            said.append(left.pop())
        else:
            said.append(rng.choice(strange if rng.random() < WRONG else TALK))
    return " ".join(said)
