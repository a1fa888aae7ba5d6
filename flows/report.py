"""The report's page kept in step with its summary: it tells of times and machines, so it is no out, and DVC never restores it.

When DVC puts an earlier summary back from its cache, the page beside it is still that of another run; then the stage's own
command writes it again, from the scores that lie there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from flows.child import search_path
from flows.planning.graph import Stage
from flows.stage import lost
from tasks.runtime.params import UserError

STAGE = "report"
TRIES = 3
"""How often the page is begun when a signal ends whoever writes it."""
PAGE = Path("data/report/index.html")
SUMMARY = Path("data/report/summary.json")
SHOWN = Path(".temper/report/previous.json")
"""Where the stage keeps the summary that its page shows."""


def page_of(study: str | None) -> Path:
    """Return where the page of a study is, or that of the pipeline."""
    return PAGE if study is None else Path("data/studies") / study / "report/index.html"


def read_summary(root: Path) -> dict[str, Any]:
    """Return the summary of the last run. Raises UserError when there is none."""
    if not (root / SUMMARY).exists():
        raise UserError("there is no report yet; make one with `temper run`")
    summary: dict[str, Any] = json.loads((root / SUMMARY).read_text(encoding="utf-8"))
    return summary


def in_step(root: Path) -> bool:
    """Tell whether the page is there and shows the summary that is there."""
    try:
        shown = json.loads((root / SHOWN).read_text(encoding="utf-8"))["summary"]
        return (root / PAGE).exists() and bool(shown == read_summary(root))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_again(root: Path, stage: Stage) -> None:
    """Write the page by the report stage's own command, which leaves the summary as it is. Raises UserError if it fails.

    One that a signal ends is started again, as any stage of a run is.
    """
    environment = os.environ | {"PATH": search_path()}
    for _ in range(TRIES):
        done = subprocess.run(stage.cmd, shell=True, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if not lost(done.returncode):
            break
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise UserError(f"the report's page cannot be written again: {last}; `temper run --force report` makes all of it")
