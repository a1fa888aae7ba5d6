"""Reads questions of every source from local files; each reader returns `Question` records in the format of its source.

A file ending in .gz is unpacked while it is read. What a file lacks is named with its row; nothing is filled in.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.data.questions.formats import LETTERS, VERDICTS, Choice, choice, evidence, open_question, reading
from tasks.runtime.params import UserError
from tasks.runtime.questions import Question, check_ids

OPTION = re.compile(r"(?:Answer|Solution|Ending|Option)(\d+):\s*")
SHOTS = 5
"""Answered questions before each one of MMLU."""


def atlas(path: Path) -> list[Question]:
    """The graded facts of Atlas, asked as its texts ask: `facts.jsonl` in folder `path`, where `asked` says the split.

    Where there is an `unanswerable.jsonl`, its questions are for the test alone, each kind a set of its own.
    """
    facts = [
        _question(
            path,
            number,
            id=f"{row['entity']}-{row['relation']}",
            prompt=row["prompt"],
            answers=[row["completion"]],
            subject=row["relation"],
            exposure=row["exposure"],
            training=row["asked"],
        )
        for number, row in _rows(path / "facts.jsonl")
    ]
    silent = path / "unanswerable.jsonl"
    rows = list(_rows(silent)) if silent.is_file() else []
    return facts + [
        _question(silent, number, prompt=row["prompt"], answers=[], set=row["kind"], training=False) for number, row in rows
    ]


def open_questions(path: Path) -> list[Question]:
    """Questions with free answers (ParaRel, TruthfulQA, SelfAware): `question`, and `answer`, `answers` or neither."""
    return [
        _question(
            path,
            number,
            prompt=open_question(row["question"]),
            answers=row["answers"] if "answers" in row else [row["answer"]] if row.get("answer") else [],
            subject=str(row.get("relation", row.get("subject", ""))),
        )
        for number, row in _rows(path)
    ]


def triples(path: Path) -> list[Question]:
    """ParaRel as published: `facts/P*.jsonl` and `patterns/P*.jsonl`; the first pattern that ends in its object is asked."""
    found = []
    for facts in sorted((path / "facts").glob("P*.jsonl")):
        patterns = path / "patterns" / facts.name
        asked = [row["pattern"] for _, row in _rows(patterns)] if patterns.is_file() else []
        ending = [match[1] for pattern in asked if (match := re.fullmatch(r"(.*\[X\].*\S) \[Y\] ?\.?", pattern))]
        if ending:
            found += [
                _question(
                    facts,
                    number,
                    id=row["uuid"],
                    prompt=ending[0].replace("[X]", row["sub_label"]),
                    answers=[row["obj_label"]],
                    subject=facts.stem,
                )
                for number, row in _rows(facts)
            ]
    return found


def instructions(path: Path) -> list[Question]:
    """ARC, OpenBookQA and BoolQ as instructions with `Answer1: ..` or `true/false`, in `instruction` and `answer`."""
    return [_question(path, number, **_instruction(row)) for number, row in _rows(path)]


def _instruction(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a question told as an instruction."""
    body = row["instruction"].split("\n\nAnswer format:")[0].split("question: ", 1)[-1]
    question, *parts = OPTION.split(body)
    texts = [text.strip() for text in parts[1::2]] or ["true", "false"]
    options = dict(zip(LETTERS, texts, strict=False))
    right = LETTERS[int(row["answer"].removeprefix("answer")) - 1] if parts else "AB"[texts.index(row["answer"])]
    return _chosen(Choice(question.strip(), options, right))


def mmlu(path: Path) -> list[Question]:
    """MMLU as published: `test/SUBJECT_test.csv` with `dev/SUBJECT_dev.csv` for the answered examples, both below `path`."""
    found = []
    for file in sorted((path / "test").glob("*_test.csv")):
        subject = file.stem.removesuffix("_test")
        shots = [asked for _, asked in _choices(path / "dev" / f"{subject}_dev.csv")][:SHOTS]
        for number, asked in _choices(file):
            told = _chosen(asked, shots, subject.replace("_", " "))
            found.append(_question(file, number, id=f"{subject}-{number}", subject=subject, **told))
    return found


def _choices(path: Path) -> Iterator[tuple[int, Choice]]:
    """Yield the questions of a CSV without a header: question, A, B, C, D, letter."""
    with _opened(path) as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) != 6:
                raise UserError(f"{path}:{number}: has {len(row)} columns; MMLU has 6: question, A, B, C, D, letter")
            question, *options, letter = row
            yield number, Choice(question, dict(zip("ABCD", options, strict=True)), letter)


def _chosen(asked: Choice, shots: list[Choice] | None = None, subject: str = "") -> dict[str, Any]:
    return {"prompt": choice(asked, shots or [], subject), "answers": [asked.letter], "choices": list(asked.options)}


def claims(path: Path) -> list[Question]:
    """Claims with evidence (FEVER, WiCE): `claim`, `evidence` and `label`, one of SUPPORTS, REFUTES, NOT ENOUGH INFO."""
    return [
        _question(
            path,
            number,
            prompt=evidence(row["evidence"], row["claim"]),
            answers=[VERDICTS[row["label"]]],
            choices=list(VERDICTS.values()),
        )
        for number, row in _rows(path)
    ]


def hotpot(path: Path) -> list[Question]:
    """HotpotQA as published: `_id`, `question`, `answer`, and `context`, a list of (title, sentences)."""
    return [
        _question(
            path,
            number,
            id=row["_id"],
            prompt=reading(["".join(sentences) for _, sentences in row["context"]], row["question"]),
            answers=[row["answer"]],
        )
        for number, row in _rows(path)
    ]


SOURCES: dict[str, Callable[[Path], list[Question]]] = {
    "atlas": atlas,
    "open": open_questions,
    "triples": triples,
    "instructions": instructions,
    "mmlu": mmlu,
    "claims": claims,
    "hotpot": hotpot,
}


def read_source(source: str, path: Path) -> list[Question]:
    """Read the questions of a source. Raises UserError for a row that lacks something, for two of one id, and for none at all."""
    questions = SOURCES[source](path)
    if not questions:
        raise UserError(f"{path}: holds no question of source '{source}'; see its layout in tasks/data/questions/sources.py")
    check_ids(questions, str(path))
    return questions


def _question(path: Path, number: int, **fields: Any) -> Question:
    try:
        return Question(**{"id": f"{path.stem}-{number}", **fields})
    except ValidationError as error:
        raise UserError(f"{path}:{number}: not a question: {error.errors()[0]['msg']}") from None


class _Row(dict[str, Any]):
    """A row of a file, which says where it stands when a field is missing."""

    def __init__(self, fields: dict[str, Any], place: str) -> None:
        super().__init__(fields)
        self.place = place

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.place}: has no field '{key}', only {', '.join(self)}")


def _rows(path: Path) -> Iterator[tuple[int, _Row]]:
    """Yield (number, row) of a JSON list or of JSON Lines, from 1."""
    with _opened(path) as file:
        text = file.read()
    try:
        whole = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} at line {error.lineno}; give a JSON list or one object a line") from None
    for number, fields in enumerate(whole, 1):
        yield number, _Row(fields, f"{path}:{number}")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
