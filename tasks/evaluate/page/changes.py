"""How a run compares with the one before: the last summary is kept beside the checkpoints, and every number shows its change.

A page written again from the same numbers, after a change of its looks say, still compares with the last run that differed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Summary = Mapping[str, Any]
Values = dict[str, float]


def last_different(place: Path, summary: Summary) -> Summary | None:
    """Return the last summary kept at `place` that differs from `summary`, or None; a damaged file counts as none."""
    kept = read_kept(place)
    return kept.get("previous") if kept.get("summary") == summary else kept.get("summary")


def keep(place: Path, summary: Summary, previous: Summary | None, finished: Mapping[str, str]) -> None:
    """Keep what the next page compares with: this summary, the one before it, and when each stage had last finished."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".draft")
    draft.write_text(json.dumps({"summary": summary, "previous": previous, "finished": finished}), encoding="utf-8")
    draft.replace(place)


def read_kept(place: Path) -> dict[str, Any]:
    """Return what `keep` wrote, or nothing when the file is missing or damaged: it is only a comparison."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


class Changes:
    """Numbers of a run beside those of the one before."""

    def __init__(self, now: Summary, before: Summary | None) -> None:
        """Compare two summaries number by number; with `before` None everything is new."""
        self.now, self.before = dict(numbers(now)), dict(numbers(before or {}))

    def of(self, name: str) -> str:
        """Return the change of the number called `name` (`headline.seeds`, `models.sft.reward.mean`): `+0.1`, `=` or `new`."""
        if name not in self.before:
            return "new"
        difference = self.now[name] - self.before[name]
        return "=" if difference == 0 else signed(difference)

    def since(self, names: Sequence[str]) -> str:
        """Say the changes of several numbers together."""
        changes = [self.of(name) for name in names]
        if set(changes) <= {"new", "="}:
            return "new" if "new" in changes else "as in the last run"
        return "since the last run: " + ", ".join("±0" if change == "=" else change for change in changes)


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a summary by dotted name; the rows of the table of models go by the model's name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for row in value:
            if isinstance(row, Mapping) and "model" in row:
                yield from numbers(row, f"{name}.{row['model']}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def short(value: float | None) -> str:
    """Say a number in at most four digits or so: 12,345 and 0.482 and 3.1e-05; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    if isinstance(value, int) or (size >= 1000 and size < 1e9):
        return f"{value:,.0f}".replace("-", "−")
    if size and (size < 0.001 or size >= 1e9):
        return f"{value:.1e}".replace("-", "−")
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}".replace("-", "−")


def signed(value: float) -> str:
    """Say a change with its sign."""
    return ("+" if value > 0 else "") + short(value)
