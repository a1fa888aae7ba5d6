"""Verdicts that were given before: a cache in front of every backend, and a backend of its own for replays without a Lean.

A verdict is kept under the hash of all it depends on: the candidate, the toolchain and library, the header, the bounds, and
the version of the rules. What depends on the machine's mood (a wall time-out, a crash) is not kept, so it is tried again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from tasks.prove.checker import SLOW, Candidate, CheckerSettings, Reason, Verdict
from tasks.prove.rules import RULES_VERSION
from tasks.runtime.params import UserError

_PASSING: frozenset[Reason] = frozenset({"crashed", "unknown"})
"""Reasons that say nothing about the candidate itself; nor does a wall time-out."""
_AT_ONCE = 500
"""Keys in one query: SQLite bounds the number of variables."""


class Verdicts:
    """A file of verdicts, safe to share between processes: SQLite appends each batch in one transaction."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it if it is not there. Raises UserError when it is something else."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        try:
            self._connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: not a file of verdicts: {error}; remove it, the proofs will be checked anew") from None

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """Return the verdicts that are known, by key."""
        found: dict[str, Verdict] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = list(keys[start : start + _AT_ONCE])
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", part)
            found.update((key, _verdict(text)) for key, text in rows)
        return found

    def put(self, verdicts: Iterable[tuple[str, Verdict]]) -> None:
        """Remember verdicts that will not change."""
        kept = ((key, v) for key, v in verdicts if v.reason not in _PASSING and not v.detail.startswith(SLOW))
        rows = [(key, json.dumps(asdict(verdict))) for key, verdict in kept]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", rows)

    def __enter__(self) -> Verdicts:
        """Serve until the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self._connection.close()


class Recorded:
    """Answers from the file, and asks `ask` for what is not in it; without `ask` that is `unknown`."""

    def __init__(
        self,
        verdicts: Verdicts,
        settings: CheckerSettings,
        toolchain: str,
        ask: Callable[[Sequence[Candidate]], list[Verdict]] | None = None,
    ) -> None:
        """Stand in front of `ask`, whose verdicts are those of `toolchain`."""
        self._verdicts = verdicts
        self._settings = settings
        self._toolchain = toolchain
        self._ask = ask

    def check(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in their order; equal candidates are checked once."""
        keys = [key(candidate, self._settings, self._toolchain) for candidate in candidates]
        known = {k: replace(v, seconds=0.0) for k, v in self._verdicts.get(list(dict.fromkeys(keys))).items()}
        missing = {k: candidate for k, candidate in zip(keys, candidates, strict=True) if k not in known}
        if missing and self._ask is None:
            none = Verdict(False, "unknown", "not among the recorded verdicts", None, 0.0, "recorded", self._toolchain, "")
            known.update(dict.fromkeys(missing, none))
        elif missing and self._ask is not None:
            fresh = dict(zip(missing, self._ask(list(missing.values())), strict=True))
            self._verdicts.put(fresh.items())
            known.update(fresh)
        return [known[k] for k in keys]


def key(candidate: Candidate, settings: CheckerSettings, toolchain: str) -> str:
    """Return the hash of everything that a verdict depends on."""
    said = [candidate.name, candidate.statement, candidate.proof, toolchain, settings.library_commit, settings.header]
    return hashlib.sha256(json.dumps([said, settings.heartbeats, RULES_VERSION]).encode()).hexdigest()


def _verdict(text: str) -> Verdict:
    values = json.loads(text)
    position = values.pop("position")
    return Verdict(position=tuple(position) if position else None, **values)
