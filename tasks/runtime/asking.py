"""Asks a model whole questions: what it answers, how confident it is, whether it says that it is sure (R-Tuning, section 3.3).

A question with choices is answered by the likeliest letter, any other by greedy text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.models import encode_text
from tasks.runtime.probe import Answer, answers, in_portions, logprobs_of, plain, samples
from tasks.runtime.questions import Question
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import END, REFUSALS, encode_answer, encode_verdicts, ended, first_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPERATURE = 0.7
"""Of the samples whose agreement is measured (sections 3.4 and 4.3)."""


class Reply(TypedDict):
    """How a model answers one question."""

    text: str
    confidence: float
    """`answer_conf`: largest softmax over the letters, or the geometric mean of the token probabilities of the first sentence."""


@dataclass(frozen=True)
class Asker:
    """A model with what is needed to ask it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    batch_size: int

    def replies(self, questions: Sequence[Question], forced: bool = False) -> list[Reply]:
        """Return the greedy answer to every question; `forced` forbids to begin one as a refusal begins."""
        free = [n for n, question in enumerate(questions) if not question.choices]
        found: dict[int, Reply] = {}
        prompts = [self.prompt(questions[n]) for n in free]
        given = answers(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            forbidden=self._refusing() if forced else frozenset(),
        )
        for n, one in zip(free, given, strict=True):
            found[n] = Reply(text=one.text, confidence=confidence(self.tokenizer, one))
        chosen = [n for n, question in enumerate(questions) if question.choices]
        found.update(zip(chosen, self._letters([questions[n] for n in chosen]), strict=True))
        return [found[n] for n in range(len(questions))]

    def texts(self, questions: Sequence[Question]) -> list[str]:
        """Return the greedy text for every question, also where there are letters to choose from: it may be a refusal.

        It is never cut short of the longest refusal, which would pass for an answer.
        """
        longest = max(len(encode_answer(self.tokenizer, ended(refusal))) for refusal in REFUSALS)
        given = answers(
            self.model,
            self.tokenizer,
            [self.prompt(question) for question in questions],
            max_new_tokens=max(self.max_new_tokens, longest),
            batch_size=self.batch_size,
        )
        return [one.text for one in given]

    def sampled(self, questions: Sequence[Question], count: int, temperature: float, seed: int) -> list[list[str]]:
        """Return the first sentences of `count` sampled answers to every question."""
        drawn = samples(
            self.model,
            self.tokenizer,
            [self.prompt(question) for question in questions],
            [question.stream for question in questions],
            count=count,
            temperature=temperature,
            max_new_tokens=self.max_new_tokens,
            seed=seed,
            batch_size=self.batch_size,
        )
        return [[first_sentence(text) for text in of_question] for of_question in drawn]

    def sure(self, questions: Sequence[Question], given: Sequence[str]) -> list[float]:
        """Return P(sure) / (P(sure) + P(unsure)) after each answer, in (0, 1), of the whole verdicts and not their first tokens.

        The answer is encoded as training encodes it: its first sentence, with one full stop.
        """
        verdicts = encode_verdicts(self.tokenizer)
        prefixes = [
            self.prompt(question) + encode_answer(self.tokenizer, ended(first_sentence(text))) + verdicts.sentence
            for question, text in zip(questions, given, strict=True)
        ]
        both = [[verdicts.sure, verdicts.unsure]] * len(prefixes)
        scored = logprobs_of(self.model, prefixes, both, batch_size=self.batch_size)
        return [1 / (1 + math.exp(min(700.0, math.fsum(unsure) - math.fsum(sure)))) for sure, unsure in scored]

    def prompt(self, question: Question) -> list[int]:
        """Return the token ids of a question."""
        return encode_text(self.tokenizer, question.prompt, add_special_tokens=True)

    def _letters(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the likeliest letter of each question, with its share of the probability of all its letters."""
        letters = [[encode_answer(self.tokenizer, letter) for letter in question.choices] for question in questions]
        prompts = [self.prompt(question) for question in questions]
        scored = logprobs_of(self.model, prompts, letters, batch_size=self.batch_size)
        return [_likeliest(question, [math.fsum(each) for each in of]) for question, of in zip(questions, scored, strict=True)]

    def _refusing(self) -> frozenset[int]:
        return frozenset(encode_answer(self.tokenizer, refusal)[0] for refusal in REFUSALS)


def asker(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, batch_size: int) -> Asker:
    """Return an asker of plain text."""
    return Asker(model, plain(tokenizer), max_new_tokens, batch_size)


def confidence(tokenizer: PreTrainedTokenizerBase, answer: Answer) -> float:
    """Return the geometric mean of an answer's token probabilities before its first full stop (section 4.3).

    Without a full stop all tokens count. 0 when there is none: nothing was answered.
    """
    stops = (n for n, token in enumerate(answer.ids) if END in tokenizer.decode([token]))
    spoken = answer.logprobs[: next(stops, len(answer.ids))]
    return math.exp(math.fsum(spoken) / len(spoken)) if spoken else 0.0


def resumable(run: Run, what: str, questions: Sequence[Question], ask: Callable[[list[Question]], list[Any]]) -> list[Any]:
    """Return `ask` of all questions, shortest first, in portions that a killed run of the stage finds again under `what`."""
    place = Checkpoints(run.checkpoints.folder / what)
    progress = run.progress(len(questions), "questions", what)
    return in_portions(questions, lambda question: (len(question.prompt), question.id), ask, place, progress)


def _likeliest(question: Question, logprobs: list[float]) -> Reply:
    best = max(logprobs)
    return Reply(
        text=question.choices[logprobs.index(best)],
        confidence=1 / math.fsum(math.exp(logprob - best) for logprob in logprobs),
    )
