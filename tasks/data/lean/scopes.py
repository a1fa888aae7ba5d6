"""The namespaces, sections and mutual blocks around a declaration, and the full name they give it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False, repr=False)
class Scope:
    """What one `end` closes, linked to the scope around it: a file may nest without bound."""

    opened_by: str
    """`namespace`, `section` or `mutual`."""
    name: str
    """One part of a dotted name; empty for none."""
    outer: Scope | None


def after(scope: Scope | None, keyword: str, name: str) -> Scope | None:
    """Return the innermost scope after `keyword name`. A dotted name opens, or closes, one scope for each of its parts."""
    for part in parts(name):
        if keyword != "end":
            scope = Scope(keyword, part, scope)
        elif scope:
            scope = scope.outer
    return scope


def full_name(scope: Scope | None, name: str) -> str:
    """Return the name that a declaration called `name` in this scope has outside of it."""
    if name.startswith("_root_."):
        return name.removeprefix("_root_.")
    names = [name]
    while scope:
        if scope.opened_by == "namespace":
            names.append(scope.name)
        scope = scope.outer
    return ".".join(reversed(names))


def parts(name: str) -> list[str]:
    """Split a dotted name at its dots, not at those within « and »."""
    found = [""]
    for piece in name.split("."):
        if found[-1].startswith("«") and not found[-1].endswith("»"):
            found[-1] += "." + piece
        else:
            found.append(piece)
    return found[1:]
