"""Puts the page together: what the template shows, and nothing that it would have to work out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tasks.evaluate.page import figures, pipeline
from tasks.evaluate.page.changes import Changes
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.studies import Study

WHO = {"base": "base", "sft": "before RLHF", "raft": "after RLHF", "average": "averaged"}
"""Whose answers are shown, in this order."""


@dataclass(frozen=True)
class Findings:
    """All that a page is made of."""

    summary: Mapping[str, Any]
    previous: Mapping[str, Any] | None
    """The last summary that differed, or None."""
    evaluation: Mapping[str, Any]
    front: figures.Rows
    curves: Mapping[str, figures.Rows]
    generations: Sequence[Mapping[str, Any]]
    pipeline: Sequence[pipeline.Stage]
    studies: Sequence[Study]
    params: Mapping[str, Mapping[str, Any]]
    """The sections of params.yaml in effect."""


def render(findings: Findings, title: str, samples: int) -> str:
    """Return the page as HTML; every text of a model or a file is escaped, and the page may run nothing."""
    return template("report.html").render(title=title, style=style(), **context(findings, samples))


def context(findings: Findings, samples: int) -> dict[str, Any]:
    """Return what the template names."""
    summary, changes = findings.summary, Changes(findings.summary, findings.previous)
    skills = list(summary["models"][0]["skills"])
    learnt = [drawn for scores in summary["scores"].values() if (drawn := figures.recall(scores))]
    return {
        "digest": hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest(),
        "head": summary["headline"],
        "change": changes.of,
        "since": lambda measures: changes.since([f"headline.{name}" for name, _ in measures]),
        "compared": findings.previous is not None,
        "skills": skills,
        "models": summary["models"],
        "front": figures.front(findings.front, "mean skill" if len(skills) > 1 else skills[0].replace("_", " ")),
        "areas": findings.evaluation["summary"]["hypervolume"],
        "along_raft": figures.along_raft(findings.evaluation, summary["headline"]["w_pre"]),
        "learning": [*learnt, *figures.learning(findings.curves)],
        "samples": sample_groups(findings.generations, samples),
        "who": WHO,
        "claims": told_claims(summary["claims"]),
        "studies": [(study, told_claims(study.ledger.get("claims", ()))) for study in findings.studies],
        "scores": summary["scores"],
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
        **provenance(findings),
    }


def sample_groups(rows: Iterable[Mapping[str, Any]], samples: int) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the first answers of each kind: held-out prompts, then the questions of each skill."""
    return [(kind, list(own)[:samples]) for kind, own in groupby(rows, key=lambda row: row["kind"])] if samples else []


def provenance(findings: Findings) -> dict[str, Any]:
    """Return what is known of the run: its stages with time and state, commits, hardware, versions and params."""
    records = [stage.record for stage in findings.pipeline if stage.record]
    newest = max(records, key=lambda record: record["finished"], default={})
    names = {stage.name.split("@")[-1] for stage in findings.pipeline} | {"base", "prompts"}
    return {
        "stages": findings.pipeline,
        "drawing": pipeline.draw(findings.pipeline) if findings.pipeline else None,
        "total": pipeline.duration(sum(record["seconds"] for record in records)) if records else None,
        "recorded": bool(records),
        "commit": newest.get("commit"),
        "versions": newest.get("versions", {}),
        "hardware": {name.replace("_gib", ", GiB"): _said(value) for name, value in newest.get("hardware", {}).items()},
        "params": {name: _flat(section) for name, section in findings.params.items() if section and name in names},
    }


def _flat(section: Mapping[str, Any]) -> dict[str, str]:
    return {name: _said(value) for name, value in section.items()}


def _said(value: Any) -> str:
    """Say a param or a fact of the machine in a few words."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)
