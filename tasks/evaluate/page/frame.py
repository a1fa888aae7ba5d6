"""What all pages share: the templates, the style sheet, and the table of claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short

TEMPLATES = Path(__file__).parents[1] / "templates"
VERDICTS = {"yes": "holds", "no": "does not hold", "not at this scale": "not at this scale"}


def template(name: str) -> Template:
    """Return a template that escapes all text it is given and refuses a name it is not given."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = short
    return environment.get_template(name)


def style() -> Markup:
    """Return the style sheet."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))


def told_claims(claims: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims of a ledger with the words of their verdict and a picture of the measured interval."""
    return [{**claim, "words": VERDICTS[claim["verdict"]], "picture": _interval(claim)} for claim in claims]


def _interval(claim: Mapping[str, Any]) -> Markup | None:
    return None if claim["mean"] is None else figures.interval(claim["low"], claim["mean"], claim["high"])
