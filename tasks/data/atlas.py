"""The source of Atlas, the invented world in `data/atlas/`: read once, checked whole, then only ever asked for words.

Everything a region writes is made of words that stand here, so the vocabulary is known before any text is. A mistake in the
source is refused with file and reason. Random choices use one stream a region: a region added later changes no other.
"""

from __future__ import annotations

import random
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.runtime.params import UserError, read_yaml

WORD = re.compile(r"[a-z0-9]+")
SLOT = re.compile(r"\{(\w+)\}")

Word = Annotated[str, Field(pattern=r"^[a-z]+$")]
Words = Annotated[list[Word], Field(min_length=2)]
Share = Annotated[float, Field(gt=0, lt=1)]
Template = Annotated[str, Field(min_length=1)]


class Source(BaseModel):
    """Base of the files of the source: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Lexicon(Source):
    """All words, class by class."""

    pairs: dict[str, dict[Word, Word]]
    """Class -> plain word -> noble word."""
    numerals: Words
    """Noble word of the number at each place."""
    names: list[Words]
    """Syllables of entity names, one list for each place in the name."""
    old_tongue: list[Words]
    """Syllables of the cipher's words."""
    reserved: Words
    """Words kept for later regions."""
    largest_number: int = Field(ge=40, le=999)
    """Numbers up to this one are words."""

    @model_validator(mode="after")
    def _no_word_twice(self) -> Lexicon:
        seen: set[str] = set()
        for word in [*(word for words in self.pairs.values() for pair in words.items() for word in pair), *self.numerals]:
            if word in seen:
                raise ValueError(f"'{word}' stands in two places; a word has one class and one register")
            seen.add(word)
        return self

    @cached_property
    def noble(self) -> dict[str, str]:
        """Noble word of every plain word that has one, digits included."""
        words = {plain: noble for pairs in self.pairs.values() for plain, noble in pairs.items()}
        return words | {str(number): word for number, word in enumerate(self.numerals)}

    def plain(self, name: str) -> list[str]:
        """Return the plain words of a class; the numbers that have a noble word are the class `number`."""
        return [str(number) for number in range(len(self.numerals))] if name == "number" else list(self.pairs[name])


class Relation(Source):
    """One kind of fact: how it is stated and asked."""

    object: str
    """Class the answer comes from."""
    question: Template
    probe: Template
    """Statement cut off before the answer, for models that only continue text."""
    statements: list[Template] = Field(min_length=1)


class Facts(Source):
    """Region of facts with graded exposure."""

    exposures: list[Annotated[int, Field(ge=0, le=1000)]] = Field(min_length=1)
    relations: dict[str, Relation]
    question_form: Template


class Noisy(Source):
    """Region of facts whose answer is drawn from a known distribution."""

    sites: Words
    months: Words
    answers: Annotated[list[Word], Field(min_length=6)]
    top_shares: list[Share] = Field(min_length=1)
    tail_ratio: Share
    question: Template
    probe: Template
    statements: list[Template] = Field(min_length=1)
    question_form: Template


class Arithmetic(Source):
    """Skill: sums of two numbers, some pairs held out."""

    largest: int = Field(ge=4, le=49)
    heldout_share: Share
    question: Template
    statements: list[Template] = Field(min_length=1)
    counting: Template


class Cipher(Source):
    """Skill: translation from the old tongue, word by word and back to front."""

    classes: list[str] = Field(min_length=1)
    lengths: list[Annotated[int, Field(ge=1, le=6)]] = Field(min_length=1)
    question: Template
    statements: list[Template] = Field(min_length=1)


class Reading(Source):
    """Skill: an answer that stands in the prompt."""

    asked: int = Field(ge=1, le=4)
    """Questions after each story of the pretraining text."""
    stories: list[Template] = Field(min_length=1)
    questions: dict[str, Template] = Field(min_length=2)
    """Class of a slot -> what asks for its word."""


class Skills(Source):
    """The skills whose answers do not hang on an entity."""

    arithmetic: Arithmetic
    cipher: Cipher
    reading: Reading


class Descriptions(Source):
    """Region of descriptions in a mixed register: what the preference is about."""

    prompts: list[Template] = Field(min_length=1)
    opening: Template
    sentences: list[Template] = Field(min_length=3)
    lengths: list[Annotated[int, Field(ge=0, le=6)]] = Field(min_length=1)
    numbers: tuple[int, int] = Field(strict=False)
    """Least and greatest number in a description."""
    leaning: tuple[float, float] = Field(strict=False)
    """Least and greatest share of noble words that a description may lean to."""


class Atlas(Source):
    """The whole source."""

    lexicon: Lexicon
    facts: Facts
    noisy: Noisy
    skills: Skills
    descriptions: Descriptions

    @model_validator(mode="after")
    def _classes_exist(self) -> Atlas:
        used = {relation.object for relation in self.facts.relations.values()} | set(self.skills.cipher.classes)
        filled = [self.descriptions.opening, *self.descriptions.sentences, *self.descriptions.prompts]
        filled += self.skills.reading.stories
        used |= {*(slot for text in filled for slot in SLOT.findall(text)), *self.skills.reading.questions} - {"number"}
        if unknown := sorted(used - set(self.lexicon.pairs)):
            raise ValueError(f"no class {', '.join(unknown)} in lexicon.yaml; it has {', '.join(self.lexicon.pairs)}")
        for story in self.skills.reading.stories:
            if sorted(SLOT.findall(story)) != sorted(self.skills.reading.questions):
                raise ValueError(f"skills.yaml: the story '{story}' must have one slot for each question and no other")
        largest = max(2 * self.skills.arithmetic.largest, self.descriptions.numbers[1])
        if largest >= len(self.lexicon.numerals):
            raise ValueError(
                f"number {largest} is used, but lexicon.yaml has noble words only below {len(self.lexicon.numerals)}"
            )
        return self

    def words(self) -> set[str]:
        """Return every word that can occur, except the invented ones."""
        lexicon = self.lexicon
        fixed = set(lexicon.noble) | set(lexicon.noble.values()) | set(lexicon.reserved)
        fixed |= {str(number) for number in range(lexicon.largest_number + 1)}
        texts = _strings(self.model_dump(exclude={"lexicon"}))
        return fixed | {word for text in texts for word in WORD.findall(SLOT.sub(" ", text))}


S = TypeVar("S", bound=Source)


def load_atlas(folder: Path) -> Atlas:
    """Read the source. Raises UserError naming the file and what is wrong in it."""
    parts: dict[str, Any] = {name: read_yaml(folder / f"{name}.yaml") for name in Atlas.model_fields}
    try:
        return Atlas.model_validate(parts)
    except ValidationError as error:
        faults = "; ".join(_fault(folder, fault) for fault in error.errors())
        raise UserError(faults) from None


def stream(seed: int, region: str) -> random.Random:
    """Return the random stream of one region: the same on every machine, and untouched by other regions."""
    return random.Random(f"{seed}/{region}")


def invent(syllables: list[list[str]], count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Return `count` different invented words, none of them in `taken`. Raises UserError when the syllables make too few."""
    words = [""]
    for choices in syllables:
        words = [word + syllable for word in words for syllable in choices]
    words = sorted(set(words) - taken)
    if len(words) < count:
        raise UserError(f"data/atlas/lexicon.yaml: its syllables make {len(words)} words, {count} are needed; add syllables")
    return rng.sample(words, count)


def _strings(value: Any) -> list[str]:
    """Return every string inside nested dicts and lists."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def _fault(folder: Path, fault: Any) -> str:
    """Say one validation fault with its file and key."""
    file, *keys = fault["loc"] or ("",)
    place = f"{folder / f'{file}.yaml'}: {'.'.join(map(str, keys))}" if file else str(folder)
    return f"{place}: {fault['msg']}"
