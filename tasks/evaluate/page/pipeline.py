"""The pipeline as it was run: which stage needs which, from dvc.yaml, and how long each took, from the records of its last run.

Those records are written by `temper run`; plain `dvc repro` leaves none, and the page says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree as Tree

from markupsafe import Markup

from tasks.evaluate.page.svg import drawing, markup, text
from tasks.runtime.progress import clock

HISTORY = Path(".temper/history")
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
OUTS = ("outs", "metrics", "plots")
BOX, GAP, WIDTH = 30, 12, 340
"""Height of a stage in the drawing, the space below it, and the width of all."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline and its last recorded run."""

    name: str
    needs: tuple[str, ...]
    """Stages whose outs it reads."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As `temper run` wrote it: seconds, finished, commit, versions, hardware, params; empty when there is none."""
    state: str = "not recorded"
    """`ran` since the last page, `reused` from before, `not recorded`, or `this page`."""

    @property
    def time(self) -> str:
        """How long its last recorded run took."""
        return duration(self.record["seconds"]) if self.record else ""

    @property
    def finished(self) -> str:
        """When that was, to the minute."""
        return str(self.record["finished"])[:16].replace("T", " ") if self.record else ""

    @property
    def commit(self) -> str:
        """From which commit, `+` behind it when files were changed; empty where that is not known."""
        return self.record.get("commit") or ""


def duration(seconds: float) -> str:
    """Say how long something took."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} min"


def stages_of(definition: Mapping[str, Any], params: Mapping[str, Any], target: str) -> list[Stage]:
    """Return the stages that `target` needs, itself last, in the order in which they can run.

    `definition` is dvc.yaml and `params` the values it refers to.
    """
    found = {name: _paths(body) for name, body in _unrolled(definition["stages"], params)}
    makers = {out: name for name, (_, outs) in found.items() for out in outs}
    needs = {
        name: tuple(dict.fromkeys(maker for dep in deps for out, maker in makers.items() if maker != name and _meet(dep, out)))
        for name, (deps, _) in found.items()
    }
    order: list[str] = []
    _visit(target, needs, order)
    return [Stage(name, needs[name]) for name in order]


def _visit(name: str, needs: Mapping[str, Sequence[str]], order: list[str]) -> None:
    """Add a stage after all that it needs."""
    if name not in order:
        for needed in needs[name]:
            _visit(needed, needs, order)
        order.append(name)


def _unrolled(stages: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every stage by name with its references filled in, `group@item` for each item of a foreach."""
    for name, body in stages.items():
        if "foreach" not in body:
            yield name, _filled(_files(body), params)
            continue
        items = _filled(body["foreach"], params)
        for key in items:
            item = items[key] if isinstance(items, Mapping) else key
            yield f"{name}@{key}", _filled(_files(body["do"]), {**params, "item": item, "key": key})


def _files(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage reads and writes."""
    return {key: body[key] for key in ("deps", *OUTS) if key in body}


def _filled(value: Any, params: Mapping[str, Any]) -> Any:
    """Return `value` with every `${a.b}` replaced by the param of that name."""
    if isinstance(value, Mapping):
        return {_filled(key, params): _filled(inner, params) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, params) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := INTERPOLATION.fullmatch(value):
        return _param(params, whole[1])
    return INTERPOLATION.sub(lambda found: str(_param(params, found[1])), value)


def _param(params: Mapping[str, Any], name: str) -> Any:
    value: Any = params
    for part in name.split("."):
        value = value[part]
    return value


def _paths(body: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the deps and the outs of a stage; an entry with options is a mapping from its path."""
    flat = [[entry if isinstance(entry, str) else next(iter(entry)) for entry in body.get(key, [])] for key in ("deps", *OUTS)]
    return flat[0], [path for paths in flat[1:] for path in paths]


def _meet(dep: str, out: str) -> bool:
    """Whether one path is the other, or lies inside it."""
    one, other = PurePosixPath(dep), PurePosixPath(out)
    return one == other or one in other.parents or other in one.parents


def with_records(stages: Sequence[Stage], folder: Path, seen: Mapping[str, str]) -> list[Stage]:
    """Return the stages with the records in `folder`; `seen` tells when each had finished at the time of the last page.

    The last stage is the one that writes the page, so it has no record yet.
    """
    found = []
    for stage in stages[:-1]:
        record = _read(folder / f"{stage.name.replace('/', '_')}.json")
        state = "not recorded" if not record else "reused" if seen.get(stage.name) == record["finished"] else "ran"
        found.append(Stage(stage.name, stage.needs, record, state))
    return found + [Stage(stage.name, stage.needs, state="this page") for stage in stages[-1:]]


def _read(path: Path) -> Mapping[str, Any]:
    """Return the last run that ended well; a missing or damaged record counts as none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["completed"]
        return record if {"seconds", "finished"} <= record.keys() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def draw(stages: Sequence[Stage]) -> Markup:
    """Draw the stages as boxes from first to last; neighbours are joined directly, what else a stage needs by arcs."""
    height = len(stages) * (BOX + GAP)
    said = "; ".join(f"{stage.name} needs {', '.join(stage.needs) or 'nothing'}" for stage in stages)
    root = drawing("The pipeline as run", said, WIDTH, height)
    place = {stage.name: number for number, stage in enumerate(stages)}
    arcs = Tree.SubElement(root, "g", {"class": "arcs"})
    for stage in stages:
        for needed in stage.needs:
            _arc(arcs, place[needed], place[stage.name], len(stages))
    for stage in stages:
        _box(root, stage, place[stage.name] * (BOX + GAP))
    return markup(root)


def _arc(parent: Tree.Element, start: int, stop: int, count: int) -> None:
    """Join two boxes: neighbours from bottom to top, others by a curve at the right that reaches out with their distance."""
    middle, edge = 100, 200
    if stop == start + 1:
        top = start * (BOX + GAP) + BOX
        Tree.SubElement(parent, "path", {"class": "edge near", "d": f"M{middle},{top}V{top + GAP}"})
        return
    first, last = start * (BOX + GAP) + BOX * 0.62, stop * (BOX + GAP) + BOX * 0.38
    reach = edge + 12 + (WIDTH - edge - 16) * 1.3 * (stop - start) / max(count - 1, 1)
    curve = f"M{edge},{first:.1f}C{reach:.1f},{first:.1f} {reach:.1f},{last:.1f} {edge},{last:.1f}"
    Tree.SubElement(parent, "path", {"class": "edge", "d": curve})
    Tree.SubElement(parent, "path", {"class": "head", "d": f"M{edge},{last:.1f}l7,-3.2v6.4z"})


def _box(parent: Tree.Element, stage: Stage, top: float) -> None:
    group = Tree.SubElement(parent, "g", {"class": f"stage {stage.state.replace(' ', '-')}"})
    size = {"x": "0.5", "y": f"{top + 0.5}", "height": f"{BOX - 1}"}
    Tree.SubElement(group, "rect", {**size, "width": "199", "rx": "4"})
    Tree.SubElement(group, "rect", {**size, "width": "4", "rx": "2", "class": "bar"})
    text(group, 14, top + BOX / 2 + 4.5, stage.name, "name")
    text(group, 190, top + BOX / 2 + 4, stage.time, "time", "end")
