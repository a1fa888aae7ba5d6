"""What the studies beside the pipeline ask, and what those that have been run found: the page leads on to their own pages.

A study is a folder of definitions; nothing of the pipeline waits for one. One that has not been run is named with its command.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFINITIONS = Path("flows/studies")
FOUND = Path("data/studies")
PAGE = "report/index.html"
COUNTS = ("yes", "no", "not_at_this_scale")


@dataclass(frozen=True)
class Study:
    """One study."""

    name: str
    asks: str
    """What it is about: the first sentence of its definition."""
    page: str | None
    """Where its page is, from the folder of the report; None where it has not been run."""
    ledger: Mapping[str, Any] = field(default_factory=dict)
    """Its claims with their verdicts and the count of each; empty where it judges none, or has not been run."""

    @property
    def command(self) -> str:
        """How it is run."""
        return f"temper run {self.name}"


def read_studies(report: Path, definitions: Path = DEFINITIONS, found: Path = FOUND) -> list[Study]:
    """Return all studies of a checkout, those with a page first; `report` is the folder from which their pages are linked."""
    studies = [_read(place, found / place.parent.name, report) for place in sorted(definitions.glob("*/dvc.yaml"))]
    return sorted(studies, key=lambda study: study.page is None)


def _read(definition: Path, folder: Path, report: Path) -> Study:
    page = folder / PAGE
    asks = first_sentence(definition.read_text(encoding="utf-8"))
    if not page.is_file():
        return Study(definition.parent.name, asks, None)
    return Study(definition.parent.name, asks, Path(os.path.relpath(page, report)).as_posix(), ledger_in(folder))


def first_sentence(text: str) -> str:
    """Return the first sentence of the comment at the top of a file; commands in it, which stand in backquotes, are left out."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    said = re.split(r"(?<=\.)\s|:?\s*`", " ".join(lines))[0].strip()
    return said if not said or said.endswith(".") else f"{said}."


def ledger_in(folder: Path) -> Mapping[str, Any]:
    """Return the claims that a study judged, from whichever of its scores holds them; a damaged file counts as none."""
    for path in sorted(folder.glob("*.json")):
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for held in (scores, scores.get("claims")) if isinstance(scores, Mapping) else ():
            if isinstance(held, Mapping) and {*COUNTS, "claims"} <= held.keys():
                return held
    return {}
