"""What an answer is truly worth in the world of wishes: two rewards that conflict, computed from its words.

A prompt asks for some things; an answer names things, and may go on and on. Naming more of what was asked helps less and
less, wrong things hurt, and talk for its own sake hurts more the more there is of it: so from some length on, longer is worse.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.runtime.directions import ATTRIBUTES
from tasks.runtime.params import UserError

FILE = "wishes.json"


@dataclass(frozen=True)
class Wishes:
    """The true ratings of this world. With m different wishes met, w wrong things, f other words and n words in all:

        helpfulness = 100 (1 - decay^m) - wrong w - talk f^2        (at most 100)
        verbosity = 100 n / longest

    A thing named twice counts among the other words.
    """

    things: Sequence[str]
    """All that can be wished for."""
    longest: int = 16
    """Words of the longest answer."""
    decay: float = 0.6
    """What each wish met leaves of the distance to full helpfulness."""
    wrong: float = 8.0
    """What naming a thing that was not wished for costs."""
    talk: float = 0.3
    """What the first other word costs; f of them cost f^2 times as much."""

    def ratings(self, prompt: str, answer: str) -> dict[str, float]:
        """Return helpfulness and verbosity of an answer, by name."""
        said, wished = answer.split(), set(prompt.split())
        named = set(said) & set(self.things)
        met, wrong = len(named & wished), len(named - wished)
        other = len(said) - met - wrong
        helpfulness = 100 * (1 - self.decay**met) - self.wrong * wrong - self.talk * other**2
        return dict(zip(ATTRIBUTES, (helpfulness, 100 * len(said) / self.longest), strict=True))

    def save(self, folder: Path) -> None:
        """Write the world's constants beside its records."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load_wishes(folder: Path) -> Wishes:
    """Read the world of a folder of records. Raises UserError when it holds none, as real data does."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no {FILE}, so no true rating is known; make the records with the stage dpa-data")
    return Wishes(**json.loads(path.read_text(encoding="utf-8")))
