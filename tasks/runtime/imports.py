"""Which project modules a module can reach: the code part of a stage's identity, and what its `deps` must list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUMBING = {f"tasks.runtime.{name}" for name in ("checkpoint", "imports", "launch", "lease", "progress", "seeds", "stage")}
"""Modules that carry a stage without being able to change its numbers: editing them makes nothing stale."""


def project_modules(module: str) -> list[Path]:
    """Return the files of `module` and of every project module it imports, at its top or inside a function, sorted.

    The plumbing is passed through but left out.
    """
    seen: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or name in seen:
            continue
        seen[name] = path
        waiting.extend(_imported(path))
    return sorted(path for name, path in seen.items() if name not in PLUMBING)


def _file(module: str) -> Path | None:
    """Return the source file of a project module, or None for a package, a name inside a module, or a foreign module."""
    if module.split(".")[0] not in ("tasks", "flows"):
        return None
    path = ROOT / (module.replace(".", "/") + ".py")
    return path if path.is_file() else None


@cache
def _imported(path: Path) -> tuple[str, ...]:
    """Return every dotted name that the file at `path` could import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(name for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
