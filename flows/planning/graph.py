"""The pipeline as a graph: the stages as DVC resolves them for given params, and which needs which. Pure, nothing is written."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.planning.links import folders
from tasks.runtime.params import UserError, label

if TYPE_CHECKING:
    from flows.planning.declared import Declared
    from flows.planning.dvcrepo import Pipeline

OutKind = Literal["out", "metric", "plot"]
State = Literal["cached", "completed", "failed", "blocked"]
TOGETHER = "tasks.runtime.together"
"""Module of a command that runs several stages."""
MANIFEST = "tasks.runtime.manifest"
"""Module of a command that writes which code stages run; it is no stage module and has no params."""


@dataclass(frozen=True)
class Out:
    """One output of a stage."""

    path: str
    """Relative to the root of the checkout."""
    kind: OutKind
    plot: Mapping[str, Any] = field(default_factory=dict)
    """How dvc.yaml wants a plot drawn: `x`, `y`, `title` ..., as far as it says."""


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
    file: str = "dvc.yaml"
    """Where it is defined, relative to the root."""
    sets: tuple[str, ...] = ()
    """What the command sets beside its section, as `key=value`."""
    cells: tuple[str | None, ...] = (None,)
    """Which cells of a matrix its commands say that they are; None for one that says none."""
    further: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Stage modules that later commands of the stage run, each with what its command sets."""
    always_changed: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The free `meta` mapping of dvc.yaml."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that runs of its modules may go by: those of their progress and their checkpoints."""
        sections = dict.fromkeys(key.split(".")[0] for key in self.param_keys) or [self.name]
        return tuple(label(section, cell) for section in sections for cell in self.cells)

    @property
    def target(self) -> str:
        """What `dvc repro` in the root calls it."""
        return self.name if self.file == "dvc.yaml" else f"{self.file}:{self.name}"


@dataclass(frozen=True)
class Graph:
    """The stages in the order of dvc.yaml, and which needs which."""

    stages: Mapping[str, Stage]
    needs: Mapping[str, tuple[str, ...]]
    """For each stage the stages whose outs it reads directly."""
    templated: frozenset[str] = frozenset()
    """The sections that dvc.yaml itself refers to, as in `${base.model}`."""
    template_modules: Mapping[str, str] = field(default_factory=dict)
    """For such a section the stage module that a `foreach` would make of it, in use or not."""
    studies: tuple[str, ...] = ()
    """The studies whose stages stand behind those of the pipeline."""

    @property
    def own(self) -> tuple[str, ...]:
        """The stages of the studies; all, where there are none."""
        return tuple(name for name, stage in self.stages.items() if not self.studies or stage.file != "dvc.yaml")

    def select(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the stages that `names` mean; the name of a foreach group means all of its stages. Raises UserError."""
        found: list[str] = []
        for name in names:
            members = self.members(name)
            if not members:
                close = difflib.get_close_matches(name, self.stages, n=1)
                meant = f"; did you mean '{close[0]}'?" if close else ""
                raise UserError(f"no stage '{name}' in dvc.yaml{meant}; there are {', '.join(self.stages)}")
            found.extend(members)
        return tuple(dict.fromkeys(found))

    def members(self, name: str) -> list[str]:
        """Return the stages of this name: one, or all of a foreach or matrix group."""
        return [stage for stage in self.stages if stage == name or stage.split("@")[0] == name]

    def upstream(self, name: str) -> tuple[str, ...]:
        """Return the stages that `name` reads from directly."""
        return self.needs[name]

    def downstream(self, name: str) -> tuple[str, ...]:
        """Return the stages that read from `name` directly."""
        return tuple(self.readers[name])

    @cached_property
    def readers(self) -> Mapping[str, list[str]]:
        """For each stage the stages that read its outs directly: `needs` turned round."""
        found: dict[str, list[str]] = {name: [] for name in self.stages}
        for name, needed in self.needs.items():
            for other in needed:
                found[other].append(name)
        return found

    @cached_property
    def rank(self) -> Mapping[str, int]:
        """The place of each stage in dvc.yaml."""
        return {name: place for place, name in enumerate(self.stages)}

    def order(self, targets: Iterable[str]) -> list[str]:
        """Return the targets and all they need, every stage after what it needs, else in the order of dvc.yaml."""
        wanted: set[str] = set()
        waiting = list(targets)
        while waiting:
            if (name := waiting.pop()) not in wanted:
                wanted.add(name)
                waiting.extend(self.needs[name])
        names, open_needs = list(self.stages), {name: len(self.needs[name]) for name in wanted}
        ready = [self.rank[name] for name in wanted if not open_needs[name]]
        heapq.heapify(ready)
        done: list[str] = []
        while ready:
            done.append(name := names[heapq.heappop(ready)])
            for reader in self.readers[name]:
                if reader in wanted:
                    open_needs[reader] -= 1
                    if not open_needs[reader]:
                        heapq.heappush(ready, self.rank[reader])
        return done

    def levels(self, targets: Iterable[str]) -> list[tuple[str, ...]]:
        """Return the order in layers: no stage of a layer needs another of the same layer."""
        depth: dict[str, int] = {}
        layers: list[list[str]] = []
        for name in self.order(targets):
            depth[name] = 1 + max((depth[other] for other in self.needs[name]), default=-1)
            layers[depth[name] :] = layers[depth[name] :] or [[]]
            layers[depth[name]].append(name)
        return [tuple(layer) for layer in layers]


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: Stage
    stale: bool
    reasons: tuple[str, ...] = ()
    """Why it is stale, for people; empty when it is not."""
    last_seconds: float | None = None
    """How long its last completed run took, if one is known."""
    forced: bool = False
    """To be run even if nothing changed: `dvc repro --force`."""
    restored: bool = False
    """Stale, but DVC's cache holds what it made from these very inputs: `dvc repro` puts that back and runs nothing."""


@dataclass(frozen=True)
class StageResult:
    """How one stage of a run ended: the row of the summary table."""

    stage: str
    state: State
    """`cached`: nothing to do; `blocked`: not started because a stage it needs failed."""
    seconds: float = 0.0
    detail: str = ""
    """The last error line of a failed stage, the stage that blocks a blocked one."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The numbers in its metric outs, nested ones as `a.b`."""


@dataclass(frozen=True)
class RunResult:
    """What a run of the pipeline came to."""

    rows: tuple[StageResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the names of the stages that failed; blocked ones are not counted."""
        return tuple(row.stage for row in self.rows if row.state == "failed")


def load_graph(root: Path, params: Mapping[str, Any], studies: Sequence[str] = ()) -> Graph:
    """Resolve dvc.yaml, and those of studies, against `params`, in memory. Raises UserError naming what is wrong with it."""
    from flows.planning.dvcrepo import opened

    with opened(root, params, studies) as pipeline:
        return graph_of(pipeline, root, studies)


def graph_of(pipeline: Pipeline, root: Path, studies: Sequence[str] = ()) -> Graph:
    """Describe an opened pipeline."""
    templated = frozenset(re.findall(r"\$\{\s*(\w+)", str(pipeline.source))) - {"item", "key"}
    return Graph(
        stages={name: _stage(declared) for name, declared in pipeline.declared.items()},
        needs=pipeline.needs,
        templated=templated,
        template_modules=_template_modules(root, pipeline.source, templated),
        studies=tuple(studies),
    )


def missing_inputs(graph: Graph, root: Path, targets: Iterable[str]) -> list[tuple[str, str]]:
    """Return (stage, dep) for every dep of the targets and what they need that is not there and that no stage makes."""
    made = Places(out.path for stage in graph.stages.values() for out in stage.outs)
    return [
        (name, dep)
        for name in graph.order(targets)
        for dep in graph.stages[name].deps
        if "://" not in dep and dep not in made and not (root / dep).exists()
    ]


def _stage(declared: Declared) -> Stage:
    given = [declared.cmd] if isinstance(declared.cmd, str) else declared.cmd or [""]
    commands = [command for one in given for command in _commands(one)]
    first = commands[0]
    module = _module(first)
    return Stage(
        name=declared.name,
        cmd=" && ".join(given),
        module=module,
        section=declared.params[0].split(".")[0] if module and declared.params else None,
        file=declared.file,
        sets=_sets(first),
        further=tuple((module, _sets(command)) for command in commands[1:] if (module := _module(command))),
        cells=tuple(dict.fromkeys(_cell(command) for command in commands)),
        deps=declared.deps,
        outs=tuple(Out(out.path, out.kind, out.plot) for out in declared.outs),
        param_keys=declared.params,
        always_changed=declared.always_changed or declared.lonely,
        meta=declared.meta,
    )


def _module(cmd: str) -> str | None:
    """Return the stage module MODULE of `python -m MODULE ...`, or None for any other command."""
    found = re.match(r"\s*\S*python[\d.]*\s+-m\s+([\w.]+)", cmd)
    return found[1] if found and found[1] != MANIFEST else None


def _commands(cmd: str) -> list[str]:
    """Return the command of every stage that `cmd` runs: itself, or those that one process forks."""
    if _module(cmd) != TOGETHER:
        return [cmd]
    return [f"python -m {command}" for command in re.split(r"\s--\s+", cmd)[1:]]


def _cell(cmd: str) -> str | None:
    return found[1] if (found := re.search(r"--cell[ =](\S+)", cmd)) else None


def _sets(cmd: str) -> tuple[str, ...]:
    return tuple(re.findall(r"--set[ =](\S+)", cmd))


def _template_modules(root: Path, source: Mapping[str, Any], sections: Iterable[str]) -> dict[str, str]:
    """Find for a section the module of the stage that some foreach group would make of it, were it in that group's list."""
    found = {}
    for group in source.values():
        template = group.get("do", {})
        if template.get("params") == ["${item}"] and isinstance(template.get("cmd"), str):
            for section in sections:
                module = _module(template["cmd"].replace("${item}", section))
                if module and (root / (module.replace(".", "/") + ".py")).is_file():
                    found[section] = module
    return found


def overlap(one: str, other: str) -> bool:
    """Tell whether two paths, as DVC normalises them, are the same or one lies below the other."""
    return one == other or _below(one, other) or _below(other, one)


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/") or folder == "."


class Places:
    """Many paths, asked whether any overlaps a given one: as quick for ten thousand of them as for ten."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Take the paths, as DVC normalises them."""
        self._paths = set(paths)
        self._folders = {folder for path in self._paths for folder in folders(path)}

    def __contains__(self, path: str) -> bool:
        """Tell whether `path` is one of them, holds one, or lies in one."""
        return path in self._paths or path in self._folders or any(folder in self._paths for folder in folders(path))
