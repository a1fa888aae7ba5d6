"""How hard a proof is: the number of steps until all goals are closed, which the curriculum sorts by."""

from __future__ import annotations

from tasks.runtime.lean.comments import code_lines


def count_steps(body: str) -> int:
    """Return the lines of a proof that hold code; `body` is what follows `:=`, and a `by` alone is no step."""
    lines = code_lines(body)
    return len(lines) - (bool(lines) and lines[0].strip() == "by")
