"""Which project modules a module can reach: the code part of a stage's identity, and what its `deps` must list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tasks.runtime.params import UserError

ROOT = Path(__file__).resolve().parents[2]
PLUMBING = {
    f"tasks.runtime.{name}"
    for name in (
        *("chaos", "checkpoint", "extensions", "host", "imports", "launch", "lease", "manifest", "progress", "seeds", "stage"),
        "together",
    )
}
"""Modules that carry a stage without being able to change its numbers: editing them makes nothing stale."""


def project_modules(module: str, root: Path = ROOT) -> list[Path]:
    """Return the files below `root` of `module` and of every project module it imports, at its top or in a function, sorted.

    The plumbing is passed through but left out. Raises UserError for a file that is not Python.
    """
    seen: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if path is None or name in seen:
            continue
        seen[name] = path
        waiting.extend(_imports(path))
    return sorted(path for name, path in seen.items() if name not in PLUMBING)


def _file(module: str, root: Path) -> Path | None:
    """Return the source file of a project module, or None for a package, a name inside a module, or a foreign module."""
    if module.split(".")[0] not in ("tasks", "flows"):
        return None
    path = root / (module.replace(".", "/") + ".py")
    return path if path.is_file() else None


def _imports(path: Path) -> tuple[str, ...]:
    try:
        return _imported(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}; correct it there") from None


@cache
def _imported(source: str) -> tuple[str, ...]:
    """Return every dotted name that a file with this text could import."""
    return tuple(name for node in ast.walk(ast.parse(source)) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
