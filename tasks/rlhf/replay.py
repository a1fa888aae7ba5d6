"""Experience replay: pre-training text in the batches of RLHF, so that what it taught is rehearsed while the policy learns.

The amount is counted in tokens against the answers (Lin et al. 2023: lambda times the tokens of RLHF, drawn uniformly).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.packing import Example
from tasks.runtime.params import UserError
from tasks.runtime.records import Text, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Replay:
    """Draws texts uniformly, with replacement, and gives `share` tokens of them for every token it is shown.

    After any number of calls exactly floor(share * tokens shown) tokens were given: the last text of a call is cut to fit.
    """

    def __init__(self, texts: Sequence[Sequence[int]], share: float, seed: int) -> None:
        """Draw from `texts`, each the token ids of one text, by a stream of random numbers of its own."""
        assert texts
        self.texts, self.share = texts, share
        self.shown = self.given = 0
        self._random = random.Random(seed)

    def __call__(self, examples: Sequence[Example]) -> list[Example]:
        """Return the examples of a batch with the texts that are due, every token of which is learned."""
        self.shown += sum(len(ids) for ids, _ in examples)
        mixed = list(examples)
        while due := math.floor(self.share * self.shown) - self.given:
            ids = self._random.choice(self.texts)[:due]
            mixed.append((ids, ids))
            self.given += len(ids)
        return mixed


def read_texts(source: Path, tokenizer: PreTrainedTokenizerBase, context: int) -> list[list[int]]:
    """Return the token ids of every text of a file, its end included, none longer than `context`.

    Raises UserError when there is no such file: replay needs text like that of pre-training.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such file; replay needs text like that of pre-training, as records of text")
    end = tokenizer.eos_token_id
    encoded = (tokenizer(record.text)["input_ids"] for record in read_records(source, Text))
    return [[*ids, *([end] if ids[-1:] != [end] else [])][:context] for ids in encoded]
