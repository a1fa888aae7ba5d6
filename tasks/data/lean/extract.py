"""Lean files -> theorems: what the aligned data set is made of.

Nothing is lost in silence. Every declaration becomes a theorem or a reject with its reason, and so does every word that
begins a command and is not known here, because it might declare something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.data.lean.commands import Command, read_name, split
from tasks.data.lean.declaration import Body, own_stop, read_body, read_prefix
from tasks.data.lean.record import Extraction, Rejected, Theorem
from tasks.data.lean.scopes import full_name
from tasks.runtime.lean.lexer import Lexed, lex
from tasks.runtime.lean.words import DEFINITIONS, PLUMBING, THEOREMS

_UNFINISHED = frozenset({"sorry", "admit"})


@dataclass(frozen=True)
class LeanFile:
    """A Lean file as it was found."""

    path: str
    """As it is to stand in the records."""
    content: bytes


def read_folder(folder: Path) -> Iterator[LeanFile]:
    """Yield every `.lean` file below a folder, by path."""
    for path in sorted(folder.rglob("*.lean")):
        yield LeanFile(str(path.relative_to(folder)), path.read_bytes())


def extract(files: Iterable[LeanFile], commit: str) -> Extraction:
    """Return the theorems of the files, numbered in order, and everything set aside. `commit` is that of their repository.

    No content is refused as a whole but one that is not UTF-8. Two theorems of one name in one file: the first counts.
    """
    out = Extraction()
    for file in files:
        try:
            text = file.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            detail = f"{error.reason} at byte {error.start}"
            line = file.content.count(b"\n", 0, error.start) + 1
            out.rejected.append(_whole_file(file.path, "not UTF-8", detail, line))
            continue
        _File(lex(text.replace("\r\n", "\n")), file.path, commit, out).read()
    return out


@dataclass
class _File:
    """One file on its way into an extraction."""

    source: Lexed
    path: str
    commit: str
    out: Extraction
    counted: tuple[int, int] = (0, 1)
    """An offset and its line, from which the next line is counted."""
    problem: str | None = None
    """The problem text of a Compfiles file: the first module doc behind `problem_file`."""
    problem_comes: bool = False
    seen: dict[str, int] = field(default_factory=dict)
    """Name -> line, of the theorems so far."""
    examples: int = 0

    def read(self) -> None:
        """Sort every command of the file into the extraction."""
        commands = split(self.source)
        last = commands[-1] if commands else None
        for command in commands:
            if self.source.fault and command is last:
                self._reject(command, "cut off", self._fault_place()[0], stop=command.stop)
            elif command.head == command.stop:
                self._reject(command, "cut off", "the file ends before the keyword")
            elif command.keyword in THEOREMS:
                self._theorem(command)
            elif command.keyword in DEFINITIONS:
                self._reject(command, f"not a theorem: {command.keyword}")
            elif command.keyword not in PLUMBING and command.keyword[0] not in "#/":
                self._reject(command, "unknown command")
            self._follow_problem(command)
        if self.source.fault and not commands:
            self.out.rejected.append(_whole_file(self.path, "cut off", *self._fault_place()))

    def _theorem(self, command: Command) -> None:
        """Add a theorem, or reject it."""
        source = self.source
        body = read_body(source, command)
        name = read_name(source, command) if command.keyword != "example" else self._example_name()
        full = full_name(command.scope, name)
        reason, detail = self._fault(command, name, full, body)
        if body is None or reason:
            self._reject(command, reason, detail)
            return
        prefix = read_prefix(source, command)
        begin, end = source.starts[command.head], source.starts[body.stop]
        self.seen[full] = line = self._line(begin)
        self.out.theorems.append(
            Theorem(
                idx=len(self.out.theorems),
                Name=full,
                Statement=source.text[begin : source.starts[body.statement_stop]],
                Proof=source.text[begin:end],
                Informal_statement=self.problem if command.keyword == "problem" else prefix.informal_statement,
                Informal_proof=prefix.informal_proof,
                File_path=self.path,
                Commit=self.commit,
                Docstring=prefix.docstring,
                Kind=command.keyword,
                Modifiers=prefix.modifiers,
                Attributes=prefix.attributes,
                Opened=prefix.opened,
                Line=line,
                Sorry=self._is_unfinished(command.head, body.stop),
            )
        )

    def _fault(self, command: Command, name: str, full: str, body: Body | None) -> tuple[str, str]:
        """Return why a theorem cannot be a record, and the detail; both empty when it can."""
        if command.unbalanced:
            return "brackets do not close", ""
        if not name:
            return "no name", ""
        if body is None:
            return "no proof", ""
        return ("name taken", f"by line {self.seen[full]}") if full in self.seen else ("", "")

    def _example_name(self) -> str:
        self.examples += 1
        return f"example#{self.examples}"

    def _reject(self, command: Command, reason: str, detail: str = "", stop: int | None = None) -> None:
        """Set a command aside, with its text up to token `stop`, or as far as it goes."""
        source = self.source
        stop = stop or max(own_stop(source, command), command.start + 1)
        begin = source.starts[min(command.head, len(source.tokens) - 1)]
        declares = command.keyword in THEOREMS | DEFINITIONS
        name = read_name(source, command) if declares else ""
        self.out.rejected.append(
            Rejected(
                Name=full_name(command.scope, name) if name else "",
                Kind=command.keyword,
                Reason=reason,
                Detail=detail,
                File_path=self.path,
                Line=self._line(begin),
                Text=source.text[source.starts[command.start] : source.starts[stop]],
            )
        )

    def _is_unfinished(self, start: int, stop: int) -> bool:
        """Whether the code of these tokens holds `sorry` or `admit`; few texts do, so the text is asked first."""
        source = self.source
        begin, end = source.starts[start], source.starts[stop]
        mentioned = any(source.text.find(word, begin, end) >= 0 for word in _UNFINISHED)
        return mentioned and not _UNFINISHED.isdisjoint(source.tokens[start:stop])

    def _follow_problem(self, command: Command) -> None:
        """Take note of a Compfiles problem text."""
        if command.keyword == "problem_file":
            self.problem_comes = True
        elif command.keyword == "/-!" and self.problem_comes:
            self.problem, self.problem_comes = self.source.tokens[command.head][3:-2].strip(), False

    def _fault_place(self) -> tuple[str, int]:
        """Return what never closes, in words, and its line."""
        assert self.source.fault, "asked only about a file that is cut off"
        line = self._line(self.source.fault.position)
        return f"{self.source.fault.reason}, from line {line}", line

    def _line(self, position: int) -> int:
        start, line = self.counted if self.counted[0] <= position else (0, 1)
        self.counted = position, line + self.source.text.count("\n", start, position)
        return self.counted[1]


def _whole_file(path: str, reason: str, detail: str, line: int) -> Rejected:
    return Rejected(Name="", Kind="file", Reason=reason, Detail=detail, File_path=path, Line=line, Text="")
