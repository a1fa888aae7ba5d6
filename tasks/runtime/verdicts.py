"""The words of R-Tuning: what is asked after an answer, the two verdicts, and the texts of a refusal.

Identification, training and evaluation read them here, and put sequences together part by part: prompt, answer, sentence and
verdict are encoded each on its own, so that what was trained is token for token what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tasks.runtime.models import encode_completion
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Variant = Literal["vanilla", "padding", "replacement", "unsupervised"]
VARIANTS: tuple[Variant, ...] = ("vanilla", "padding", "replacement", "unsupervised")
"""Ways to build the training rows: the gold answers alone, R-Tuning, R-Tuning-R and R-Tuning-U (Zhang et al. 2024, section 3)."""
END = "."
"""What ends an answer."""
SENTENCE = "Are you sure you accurately answered the question based on your internal knowledge? I am"
"""What stands between an answer and its verdict (section 3.2)."""
SURE, UNSURE = "sure.", "unsure."
REFUSALS = (
    *(f"The answer is {word}" for word in ("unknown", "uncertain", "unclear")),
    *(f"There is no {what}" for what in ("scientific evidence", "definitive answer", "right answer", "known case")),
    "There is no concrete answer to this question",
    "There is no public information available",
    "There is much debate",
    *(f"It is {what}" for what in ("impossible to know", "impossible to answer", "difficult to predict", "not known")),
    "We do not know",
    "I'm not sure",
)
"""The answers of R-Tuning-R to what the model does not know (appendix)."""


@dataclass(frozen=True)
class Verdicts:
    """Sentence and verdicts as the token ids of one tokenizer."""

    sentence: list[int]
    sure: list[int]
    unsure: list[int]


def encode_verdicts(tokenizer: PreTrainedTokenizerBase) -> Verdicts:
    """Return the ids of sentence and verdicts. Raises UserError when the tokenizer cannot tell the verdicts apart."""
    sure, unsure = encode_answer(tokenizer, SURE), encode_answer(tokenizer, UNSURE)
    if sure == unsure:
        raise UserError(f"the tokenizer writes {SURE!r} and {UNSURE!r} with the same tokens; use one that knows both words")
    return Verdicts(encode_answer(tokenizer, SENTENCE), sure, unsure)


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a part as it follows running text: parted by a space, no token of the tokenizer's own at its ends."""
    return encode_completion(tokenizer, text)[:-1]


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop, or the whole of it when there is none; white space at the ends is dropped."""
    return text.split(END, 1)[0].strip()


def ended(answer: str) -> str:
    """Return an answer with exactly one full stop at its end."""
    return answer.rstrip(END + " ") + END


def are_refusals(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[bool]:
    """Whether each answer is one of the refusals, in the words that the tokenizer can write."""
    refusals = {_written(tokenizer, refusal) for refusal in REFUSALS}
    return [_written(tokenizer, text) in refusals for text in texts]


def refuses(answer: str) -> bool:
    """Whether an answer is one of the refusals by its words alone, whatever stands between them: for one that was decoded."""
    return _words(answer) in map(_words, REFUSALS)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _written(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the first sentence of a text as the tokenizer gives it back, in small letters."""
    decoded = str(tokenizer.decode(encode_answer(tokenizer, first_sentence(text)), skip_special_tokens=True))
    return " ".join(decoded.lower().split())
