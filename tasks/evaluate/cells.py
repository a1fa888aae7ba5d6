"""What the cells of a study leave behind: one JSON file of scores each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.runtime.params import UserError


def read(path: Path) -> dict[str, Any]:
    """Read the scores of a cell. Raises UserError when they are missing or damaged."""
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the cell of the study that makes it first") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} in line {error.lineno}; run the cell that makes it again") from None
    return scores
