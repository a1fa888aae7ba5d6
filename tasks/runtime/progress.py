"""Progress of a long step: one line for people, one small file for whoever watches the run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
FOLDER = Path(".temper/progress")


class Progress:
    """Counts `total` units of work; every `interval` seconds prints rate and time left and rewrites the progress file."""

    def __init__(self, stage: str, total: float, unit: str, what: str = "", interval: float = 2.0) -> None:
        """Start counting. `unit` names what is counted (`steps`, `prompts`, `bytes`), `what` the part of the stage."""
        self.stage, self.total, self.unit, self.what, self.interval = stage, total, unit, what, interval
        self.done = 0.0
        self.started = time.monotonic()
        self._shown = self.started

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more units; `note` is shown at the end of the line (a loss, a reward)."""
        self.done += amount
        now = time.monotonic()
        if now - self._shown >= self.interval or self.done >= self.total:
            self._shown = now
            self._show(now - self.started, note)

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, counting one for each."""
        for item in items:
            yield item
            self.advance()

    def _show(self, seconds: float, note: str) -> None:
        rate = self.done / max(seconds, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        label = f"{self.stage} {self.what}".strip()
        tail = f"  {note}" if note else ""
        line = f"{label}  {self.done:,.0f}/{self.total:,.0f} {self.unit}  {rate:,.1f} {self.unit}/s  {clock(left)} left"
        print(line + tail, file=sys.stderr, flush=True)
        state = {"what": self.what, "done": self.done, "total": self.total, "unit": self.unit, "rate": rate, "left_s": left}
        FOLDER.mkdir(parents=True, exist_ok=True)
        draft = FOLDER / f"{self.stage}.draft-{os.getpid()}"  # the seeds of a stage show one file
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(FOLDER / f"{self.stage}.json")


def clock(seconds: float) -> str:
    """Say a duration as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
