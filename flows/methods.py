"""Papers, the stages that re-measure them, and where those stand: the list is data, the state is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from flows.planning.graph import Graph, Step

LIST = Path(__file__).with_name("methods.yaml")


@dataclass(frozen=True)
class Method:
    """A paper and its stages, in order."""

    paper: str
    stages: tuple[str, ...]
    """As in dvc.yaml; the name of a matrix means all its cells."""
    study: str | None = None
    """The study whose stages these are; None for those of the pipeline."""


def read_methods(place: Path = LIST) -> list[Method]:
    """Read the list of methods."""
    rows = YAML(typ="safe", pure=True).load(place.read_text(encoding="utf-8"))
    return [Method(row["paper"], tuple(row["stages"]), row.get("study")) for row in rows]


def state(method: Method, graph: Graph, steps: Mapping[str, Step]) -> str:
    """Say where a method stands: `planned`, `not run`, `stale: ...` or `up to date`. `steps` is a plan of all that it needs."""
    cells = {stage: graph.members(stage) for stage in method.stages}
    absent = [stage for stage in method.stages if not cells[stage]]
    if absent:
        return f"planned: {', '.join(absent)} not in dvc.yaml"
    never = [stage for stage, names in cells.items() if any("never run" in steps[name].reasons for name in names)]
    if never:
        return f"not run: {', '.join(never)}"
    stale = [stage for stage, names in cells.items() if any(steps[name].stale for name in names)]
    return f"stale: {', '.join(stale)}" if stale else "up to date"
