"""How an answer states its confidence, and what a stated confidence earns: SaySelf's response, its parser and its rewards.

A response ends with `Confidence: N`, N from 0 to 10. What cannot be read is None and never 0: a wrong answer is paid for
stating 0, so a failure that passed for a 0 would be learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.runtime.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCALE = 10
"""Highest confidence; the lowest is 0, which says: certainly wrong."""
UNREAD = -1.0
"""Reward of a response whose confidence cannot be read: no more than the worst that a stated one can earn."""
RewardKind = Literal["quadratic", "linear"]

# A word tokenizer puts spaces around marks and drops line ends, so fields are found wherever they stand.
ANSWER, RATIONALE, CONFIDENCE = (re.compile(rf"\b{name}\s*:", re.I) for name in ("answer", "self-reflection", "confidence"))
NUMBER = re.compile(r"(?<!\w)-?\d+(?:\.\d+)?")
TORN, SURE = "torn between ", "sure of "


class Question(Record):
    """A question with what is known of its answer."""

    qid: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)
    """The right answer, or for a question without a fixed one some draws from its distribution, in which answers recur."""
    source: str
    """Name of the set it comes from."""
    group: str
    """What it is about: questions of one group are on one side of a split."""
    chances: dict[str, float] | None = None
    """Known probability of each answer, where the world knows it. Never trained on."""


@dataclass(frozen=True)
class Response:
    """What was read of a response; None where a field is missing, or holds nothing that counts."""

    answer: str | None
    rationale: str | None
    confidence: int | None
    """0 to SCALE."""


def write_response(answer: str, rationale: str, confidence: int, reasoning: str = "", led: bool = True) -> str:
    """Return a response in the form that `parse_response` reads; a blank rationale or reasoning has no line.

    `led` says whether `Answer:` leads the answer, as it must after a reasoning.
    """
    assert 0 <= confidence <= SCALE
    assert led or not reasoning.strip()
    first = f"Answer: {answer}" if led else answer
    lines = [reasoning.strip(), first, f"Self-reflection: {rationale}" if rationale else ""]
    return "\n".join([*filter(None, lines), f"Confidence: {confidence}"])


def without_rationale(response: str) -> str:
    """Return a response of `write_response` without the line of its rationale."""
    return "\n".join(line for line in response.splitlines() if not RATIONALE.match(line))


def parse_response(text: str) -> Response:
    """Read a response. Its answer is that of the last `Answer:`, up to the next field or the end of the line.

    Where no `Answer:` stands, all is answer that stands before the other fields, as when a model answers plainly.
    """
    head = text[: last.start()] if (last := _last(CONFIDENCE, text)) else text
    body, rationale = head, None
    if found := _last(RATIONALE, head):
        body, rationale = head[: found.start()], head[found.end() :].strip() or None
    found = _last(ANSWER, body)
    given = body[found.end() :] if found else body
    answer = next(iter(given.strip().splitlines()), "").strip()
    return Response(answer or None, rationale, parse_confidence(text))


def parse_confidence(text: str) -> int | None:
    """Return the first number after the last `Confidence:`; None where there is none, or it is no whole number from 0 to 10.

    "8 or 9" gives 8; "high", "85", "-3", "7.5" and "w4" give None.
    """
    start = confidence_start(text)
    number = NUMBER.search(text, start) if start is not None else None
    if number is None or not number[0].isdecimal() or int(number[0]) > SCALE:
        return None
    return int(number[0])


def confidence_start(text: str) -> int | None:
    """Return where the text after the last `Confidence:` begins, or None without one."""
    found = _last(CONFIDENCE, text)
    return found.end() if found else None


def _last(field: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(field.finditer(text), key=lambda match: match.end(), default=None)


def normalise(answer: str) -> str:
    """Return an answer for comparison: small letters, marks taken out, spaces single."""
    return " ".join(re.sub(r"[^\w\s]", " ", answer.lower()).split())


def is_correct(answer: str | None, gold: str) -> bool:
    """Say whether an answer equals the right one after normalising; one that merely contains it does not."""
    return answer is not None and normalise(answer) == normalise(gold)


def reward(correct: bool, confidence: int | None, kind: RewardKind = "quadratic") -> float:
    """Return the reward of a confidence, in [-1, 1].

    Quadratic: `1 - 2 (I - c/10)^2`, a proper rule: the best c is 10 times the chance of being right (Xu et al. 2024, stage 2).
    Linear, the control: `c/10` if right, `-c/10` if wrong, best at 10 or 0. None earns UNREAD under both.
    """
    if confidence is None:
        return UNREAD
    share = confidence / SCALE
    if kind == "linear":
        return share if correct else -share
    return 1 - 2 * (correct - share) ** 2


def agreement(size: int, samples: int) -> int:
    """Return the confidence 10 S / N, halves rounded up; N counts every sample drawn (80 of 100 gives 8)."""
    assert 0 <= size <= samples
    return (2 * SCALE * size + samples) // (2 * samples)


def name_clusters(kept: str, others: Sequence[str]) -> str:
    """Return the rationale that stands in for an external model's: it names the competing answers, in the order given."""
    return TORN + " and ".join([kept, *others]) if others else SURE + kept


def named(rationale: str, known: Sequence[str]) -> list[str]:
    """Return the answers that a rationale names, normalised: those of `name_clusters` exactly, else those of `known` it holds."""
    text = normalise(rationale)
    if text.startswith(TORN):
        return list(dict.fromkeys(filter(None, (part.strip() for part in text.removeprefix(TORN).split(" and ")))))
    return [answer for answer in dict.fromkeys(map(normalise, known)) if answer and f" {answer} " in f" {text} "]


def unknown_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """Return the words of `texts` that a tokenizer of whole words cannot write, sorted; a subword tokenizer has none."""
    words = {word for text in texts for word in re.findall(r"\w+(?:-\w+)*|[^\w\s]", text)}
    unknown = tokenizer.unk_token_id
    encoded = ((word, tokenizer(word, add_special_tokens=False)["input_ids"]) for word in sorted(words))
    return [word for word, ids in encoded if unknown is not None and unknown in ids]


def add_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> None:
    """Give model and tokenizer a token for each word, with embeddings spread about the mean of all others as those are.

    The spread is drawn from a stream of its own that is always the same. With the mean itself for all of them new words cannot be
    told apart at first, and it takes many steps until they are.
    """
    import torch
    from tokenizers import AddedToken

    before = model.config.get_text_config().vocab_size
    tokenizer.add_tokens([AddedToken(word, single_word=word[0].isalnum(), normalized=True) for word in words])
    if len(tokenizer) <= before:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            table_VD = next(layer.parameters())
            draw = torch.Generator().manual_seed(0)
            noise_VD = torch.randn(len(table_VD) - before, table_VD.shape[1], generator=draw).to(table_VD)
            table_VD[before:] = table_VD[:before].mean(0) + table_VD[:before].std(0) * noise_VD
