"""Records on disk: JSON Lines, one pydantic class a type, the field names the ecosystem uses.

A malformed line stops the stage with file, line number and reason. With `on_bad_record: quarantine` it goes to a side
file with the reason instead, so that nothing is silently lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.runtime.params import UserError

OnBadRecord = Literal["stop", "quarantine"]


class Record(BaseModel):
    """Base of every record type. Fields of the source that the type does not know are kept."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class Text(Record):
    """Plain text for language modelling and perplexity."""

    text: str = Field(min_length=1)


class Prompt(Record):
    """A prompt to be answered by a policy."""

    prompt: str = Field(min_length=1)


class Completion(Record):
    """A prompt with the answer to be learned, or, in a skill file, the only right answer."""

    prompt: str = Field(min_length=1)
    completion: str = Field(min_length=1)


class Preference(Record):
    """Two answers to one prompt, the better one first."""

    prompt: str = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)


R = TypeVar("R", bound=Record)


@dataclass
class Rejects:
    """Lines that were set aside, with their reasons."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the rejected lines as JSON Lines (`line`, `reason`, `text`)."""
        write_records(path, self.lines)


def read_records(
    path: Path, record_type: type[R], on_bad_record: OnBadRecord = "stop", rejects: Rejects | None = None
) -> list[R]:
    """Read every record of `path`. Raises UserError naming file, line and reason for the first bad one, or if none is good."""
    rejects = Rejects() if rejects is None else rejects
    good: list[R] = []
    for number, line in _lines(path):
        try:
            good.append(record_type.model_validate(json.loads(line)))
        except (ValidationError, json.JSONDecodeError) as error:
            reason = _reason(error)
            if on_bad_record == "stop":
                raise UserError(
                    f"{path}:{number}: not a {record_type.__name__} record: {reason}; "
                    "mend the line, or set on_bad_record: quarantine"
                ) from None
            rejects.lines.append({"line": number, "reason": reason, "text": line})
    if not good:
        raise UserError(f"{path}: holds no {record_type.__name__} record ({len(rejects.lines)} bad lines)")
    return good


def write_records(path: Path, records: Iterable[Record | dict[str, Any]]) -> int:
    """Write records as JSON Lines with sorted fields kept in their own order; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = record.model_dump() if isinstance(record, Record) else record
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line that is not blank. Raises UserError for a missing or non-UTF-8 file."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from None


def _reason(error: ValidationError | json.JSONDecodeError) -> str:
    """One line saying what is wrong with a record."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}" for fault in error.errors())
