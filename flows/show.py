"""What the commands print: tables on a terminal, aligned plain lines anywhere else, machine-readable where asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.planning.graph import RunResult, StageResult, Step
from tasks.runtime.progress import clock

COLOURS = {
    **dict.fromkeys(("up to date", "cached", "ok", "completed"), "green"),
    **dict.fromkeys(("run", "restore", "note", "blocked", "not run"), "yellow"),
    **dict.fromkeys(("failed", "fault"), "bold red"),
    "mended": "cyan",
}
WAITS = "waits for "
console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line on stdout."""
    console.print(Text(text))


def warn(text: str) -> None:
    """Print a line about the program itself on stderr."""
    errors.print(Text(f"temper: {text}", style="bold red"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings; the words that name a state in its colour."""
    if not console.is_terminal:
        rows = [[cell.replace("\n", "; ") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        aligned = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows))
        return say("\n".join(line.rstrip() for line in aligned))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    return console.print(grid)


def steps(planned: Sequence[Step]) -> None:
    """Print a plan: each stage, what would be done, how long it took last, and why."""
    rows = [[step.stage.name, action(step), duration(step.last_seconds), why(step.reasons)] for step in planned]
    table(("stage", "plan", "last", "why"), rows)
    say(total(planned))


def steps_json(planned: Sequence[Step], needs: Mapping[str, Sequence[str]]) -> None:
    """Print a plan as JSON, for other programs."""
    rows = [
        {
            "stage": step.stage.name,
            "stale": step.stale,
            "forced": step.forced,
            "restored": step.restored,
            "reasons": list(step.reasons),
            "last_seconds": step.last_seconds,
            "needs": list(needs[step.stage.name]),
            "cmd": step.stage.cmd,
            "outs": [out.path for out in step.stage.outs],
        }
        for step in planned
    ]
    print(json.dumps({"stale": sum(step.stale for step in planned), "stages": rows}, indent=1))


def action(step: Step) -> str:
    """Say in a word what would be done with a stage."""
    if not step.stale:
        return "up to date"
    return "restore" if step.restored else "run"


def why(reasons: Sequence[str], room: int = 3) -> str:
    """Join reasons for people: of changed params, and of stages that are waited for, the first `room` and how many more."""
    params = [reason for reason in reasons if reason.startswith("param ")]
    waits = [reason.removeprefix(WAITS) for reason in reasons if reason.startswith(WAITS)]
    others = [reason for reason in reasons if not reason.startswith(("param ", WAITS))]
    if params:
        others.append("; ".join(params[:room]) + _more(params, room, "params"))
    if waits:
        others.append(WAITS + ", ".join(waits[:room]) + _more(waits, room, "stages"))
    return "; ".join(others)


def _more(things: Sequence[str], room: int, name: str) -> str:
    return f" and {len(things) - room} more {name}" if len(things) > room else ""


def total(planned: Sequence[Step]) -> str:
    """Sum up a plan in a line, with the time its stages took last."""
    to_run = [step for step in planned if step.stale and not step.restored]
    restored = sum(step.restored for step in planned)
    if not to_run and not restored:
        return f"nothing to do: {len(planned)} stages are up to date"
    known = [step.last_seconds for step in to_run if step.last_seconds is not None]
    parts = [f"{len(to_run)} of {len(planned)} stages to run"]
    if restored:
        parts.append(f"{restored} to restore from DVC's cache")
    if known:
        unknown = f" and {len(to_run) - len(known)} not timed yet" if len(known) < len(to_run) else ""
        parts.append(f"{clock(sum(known))} when last run{unknown}")
    return ", ".join(parts)


def summary(result: RunResult) -> None:
    """Print how a run ended, stage by stage."""
    rows = [[row.stage, row.state, duration(row.seconds or None), headline(row)] for row in result.rows]
    table(("stage", "state", "took", "first scores, or why not"), rows)


def headline(row: StageResult) -> str:
    """Return the first three scores of a stage; what there is to say of one that has none or did not finish."""
    return ", ".join(f"{name} {value:.4g}" for name, value in list(row.scores.items())[:3]) or row.detail


def numbers(values: Mapping[str, Any], under: str = "") -> list[list[str]]:
    """Return the numbers of nested scores as rows of name and value."""
    rows: list[list[str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows.extend(numbers(value, f"{under}{key}."))
        elif isinstance(value, bool | int | float):
            rows.append([f"{under}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)])
    return rows


def duration(seconds: float | None) -> str:
    """Say a duration, or nothing when it is not known."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
