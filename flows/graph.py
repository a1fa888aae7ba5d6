"""The pipeline as a graph, and what of it is stale and why: pure functions over dvc.yaml, params and dvc.lock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

OutKind = Literal["out", "metric", "plot"]
State = Literal["cached", "completed", "failed", "blocked"]


@dataclass(frozen=True)
class Out:
    """One output of a stage."""

    path: str
    """Relative to the root of the checkout."""
    kind: OutKind


@dataclass(frozen=True)
class Stage:
    """One stage as DVC resolves it for given params."""

    name: str
    """As in dvc.yaml; `group@item` for a stage made by foreach or matrix."""
    cmd: str
    module: str | None
    """The stage module of `python -m MODULE ...`, or None for another command."""
    section: str | None
    """The section of params.yaml it reads: the `section` of its module's Params."""
    deps: tuple[str, ...]
    """Paths relative to the root, params excluded."""
    outs: tuple[Out, ...]
    param_keys: tuple[str, ...]
    """The keys of params.yaml that DVC compares."""
    always_changed: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The free `meta` mapping of dvc.yaml."""


@dataclass(frozen=True)
class Graph:
    """The stages in the order of dvc.yaml, and which needs which."""

    stages: Mapping[str, Stage]
    needs: Mapping[str, tuple[str, ...]]
    """For each stage the stages whose outs it reads directly."""

    def upstream(self, name: str) -> tuple[str, ...]:
        """Return the stages that `name` reads from directly."""
        return self.needs[name]

    def downstream(self, name: str) -> tuple[str, ...]:
        """Return the stages that read from `name` directly."""
        return tuple(other for other, needed in self.needs.items() if name in needed)

    def order(self, targets: Iterable[str]) -> list[str]:
        """Return the targets and all they need, every stage after what it needs, else in the order of dvc.yaml."""
        wanted: set[str] = set()
        waiting = list(targets)
        while waiting:
            if (name := waiting.pop()) not in wanted:
                wanted.add(name)
                waiting.extend(self.needs[name])
        done: list[str] = []
        while len(done) < len(wanted):
            done.append(next(n for n in self.stages if n in wanted and n not in done and set(self.needs[n]) <= set(done)))
        return done

    def levels(self, targets: Iterable[str]) -> list[tuple[str, ...]]:
        """Return the order in layers: no stage of a layer needs another of the same layer."""
        depth: dict[str, int] = {}
        for name in self.order(targets):
            depth[name] = 1 + max((depth[other] for other in self.needs[name]), default=-1)
        return [tuple(n for n in depth if depth[n] == level) for level in range(max(depth.values(), default=-1) + 1)]


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: Stage
    stale: bool
    reasons: tuple[str, ...] = ()
    """Why it is stale, for people; empty when it is not."""
    last_seconds: float | None = None
    """How long its last completed run took, if one is known."""


@dataclass(frozen=True)
class StageResult:
    """How one stage of a run ended: the row of the summary table."""

    stage: str
    state: State
    """`cached`: nothing to do; `blocked`: not started because a stage it needs failed."""
    seconds: float = 0.0
    detail: str = ""
    """The last error line of a failed stage, the stage that blocks a blocked one."""


@dataclass(frozen=True)
class RunResult:
    """What a run of the pipeline came to."""

    rows: tuple[StageResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the names of the stages that failed; blocked ones are not counted."""
        return tuple(row.stage for row in self.rows if row.state == "failed")


def load_graph(root: Path, params: Mapping[str, Any]) -> Graph:
    """Resolve dvc.yaml against `params`, in memory. Raises UserError naming what is wrong with it."""
    raise NotImplementedError


def plan(
    graph: Graph, root: Path, params: Mapping[str, Any], targets: Iterable[str], force: Collection[str] = ()
) -> list[Step]:
    """Return the targets and all they need, in order, each stale or not and why; writes nothing."""
    raise NotImplementedError
