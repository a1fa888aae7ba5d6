"""Skills that alignment may cost: questions with one right answer, asked greedily, an answer right when it is that text.

Data without such questions has one skill, `next_token`: how often the likeliest next token of held-out text is the right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.generate import generate
from tasks.runtime.models import encode_completion
from tasks.runtime.records import Completion, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Skills = Mapping[str, Sequence[Completion]]
"""Questions with their answers, by the name of the skill."""
NEXT_TOKEN = "next_token"


def read_skills(sets: Path) -> dict[str, list[Completion]]:
    """Return the questions of every `skills/NAME.jsonl` by name, in alphabetical order; none when there is no such folder."""
    return {path.stem: read_records(path, Completion) for path in sorted((sets / "skills").glob("*.jsonl"))}


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, skills: Skills, batch_size: int) -> dict[str, list[str]]:
    """Return the model's greedy answer to every question, cut off one token after the longest right answer would have ended."""
    questions = [question for asked in skills.values() for question in asked]
    longest = max((len(encode_completion(tokenizer, question.completion)) for question in questions), default=0)
    prompts = [question.prompt for question in questions]
    answers = iter(generate(model, tokenizer, prompts, max_new_tokens=longest + 1, temperature=0, seed=0, batch_size=batch_size))
    return {name: [next(answers)[0] for _ in asked] for name, asked in skills.items()}


def exact_match(skills: Skills, answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the share of right answers of each skill; white space at the ends and its width inside do not matter."""
    return {
        name: sum(map(_same, answers[name], (question.completion for question in asked))) / len(asked)
        for name, asked in skills.items()
    }


def _same(answer: str, right: str) -> bool:
    return answer.split() == right.split()
