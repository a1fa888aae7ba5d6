"""What of the pipeline is stale, and why: pure functions over the graph, params, dvc.lock and the files there are.

What DVC would do is asked of DVC itself (`flows.planning.dvcrepo`), stage by stage and without its locks: a plan can be made
while a run goes on, and for params that are nowhere on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.planning import history
from flows.planning.graph import Graph, Places, Stage, Step, overlap

if TYPE_CHECKING:
    from flows.planning.dvcrepo import Pipeline
    from flows.planning.manifests import Foreseen


def plan(
    graph: Graph,
    root: Path,
    params: Mapping[str, Any],
    targets: Iterable[str],
    force: Collection[str] = (),
    on_stale: Callable[[], None] = lambda: None,
    pipeline: Pipeline | None = None,
) -> list[Step]:
    """Return the targets and all they need, in order, each stale or not and why; writes nothing.

    `on_stale` is called once, as soon as the first stale stage is known: hashing the rest can take a while. `pipeline` is the
    one that `graph` was made of, if it is still open: it is used up and closed.
    """
    from flows.planning.dvcrepo import opened

    steps: list[Step] = []
    with closing(pipeline) if pipeline else opened(root, params, graph.studies) as now:
        view, order, known = _view(graph, now, root), graph.order(targets), False
        view.unchanged = now.unchanged(order)
        for name in order:
            step = _step(view, root, name, forced=name in force)
            if step.stale and not known:
                known = True
                on_stale()
            steps.append(step)
    return steps


def check(graph: Graph, root: Path, params: Mapping[str, Any], name: str) -> Step:
    """Look at one stage alone, once all it needs has run: an upstream stage that was stale may have given the same outs."""
    from flows.planning.dvcrepo import opened

    with opened(root, params, graph.studies) as pipeline:
        return _step(_view(graph, pipeline, root), root, name, forced=False)


@dataclass
class _View:
    """What a plan knows so far, going down the graph."""

    graph: Graph
    pipeline: Pipeline
    pending: set[str] = field(default_factory=set)
    """Stale stages whose outs nobody can foresee."""
    foreseen: dict[str, Any] = field(default_factory=dict)
    """Outs, by path, whose hashes are known beforehand: those that DVC will put back from its cache, and manifests of code."""
    manifests: Mapping[str, Foreseen] = field(default_factory=dict)
    """The manifests among them."""
    unchanged: Collection[str] = ()
    """Stages that are as dvc.lock says, as far as that can be told without DVC's objects."""

    def settled(self, name: str) -> bool:
        """Tell whether there is no reason to run a stage, also when what is foreseen has come true."""
        if name not in self.unchanged:
            return False
        foreseen = {dep: self.foreseen[dep].hash_info.value for dep in self.graph.stages[name].deps if dep in self.foreseen}
        noted = {entry["path"]: entry["md5"] for entry in self.pipeline.locked[name]["deps"]} if foreseen else {}
        return all(noted.get(dep) == md5 for dep, md5 in foreseen.items())

    def waits(self, name: str) -> list[str]:
        """Return the stages that `name` reads from and that must run before anything can be said."""
        deps = self.graph.stages[name].deps
        return [other for other in self.graph.upstream(name) if other in self.pending or not self._exact(deps, other)]

    def foretold(self, stage: Stage) -> bool:
        """Tell whether what a stage will make is known before it runs."""
        return all(out.path in self.manifests for out in stage.outs)

    def _exact(self, deps: Iterable[str], other: str) -> bool:
        """Tell whether what `deps` take of a stage is there, or foreseen as a whole."""
        outs = [out.path for out in self.graph.stages[other].outs if out.path in self.foreseen]
        return all(dep in outs for dep in deps if any(overlap(dep, out) for out in outs))


def _view(graph: Graph, pipeline: Pipeline, root: Path) -> _View:
    from flows.planning.manifests import foreseen

    manifests = foreseen(graph, root)
    return _View(graph, pipeline, foreseen=dict(manifests), manifests=manifests)


def _step(view: _View, root: Path, name: str, *, forced: bool) -> Step:
    stage, waits = view.graph.stages[name], view.waits(name)
    reasons = _reasons(view, name, waits)
    outs = view.pipeline.restorable(name, view.foreseen) if reasons and not (waits or forced) else None
    reasons = [*(["forced"] if forced else []), *reasons, *(f"waits for {other}" for other in waits)]
    if outs is not None:
        view.foreseen.update(outs)
    elif reasons and not view.foretold(stage):
        view.pending.add(name)
    done = history.last_completed(root, name)
    return Step(stage, bool(reasons), tuple(reasons), done.seconds if done else None, forced, restored=outs is not None)


def _reasons(view: _View, name: str, waits: Iterable[str]) -> list[str]:
    """Say why a stage would run by itself. What the stages in `waits` are about to make again is not looked at."""
    if view.settled(name):
        return []
    pipeline, locked, graphed = view.pipeline, view.pipeline.locked.get(name), view.graph.stages[name]
    if locked is None:
        return ["never run"]
    stage = pipeline.stages[name]
    unknown = Places(out.path for other in waits for out in view.graph.stages[other].outs)
    reasons = ["always run"] if graphed.always_changed else []
    if stage.cmd_changed:
        reasons.append(_command_change(locked.get("cmd"), graphed.cmd))
    for dep in [] if stage.frozen else stage.deps:
        if pipeline.is_params(dep):
            reasons.extend(_param_changes(dep))
        elif manifest := view.manifests.get(pipeline.path(dep)):
            reasons.extend(_code_changes(view, dep, manifest))
        elif pipeline.path(dep) not in unknown:
            reasons.extend(_dep_change(pipeline.path(dep), pipeline.status(dep, view.foreseen)))
    for out in stage.outs:
        reasons.extend(_out_change(pipeline.path(out), pipeline.status(out), pipeline.remote))
    return list(dict.fromkeys(reasons))


def _code_changes(view: _View, dep: Any, manifest: Foreseen) -> list[str]:
    """Name the modules that changed since the stage ran, from the manifest it ran with, which DVC's cache keeps."""
    from flows.planning.manifests import changes

    path = view.pipeline.path(dep)
    if not dep.hash_info:
        return _dep_change(path, "new")
    return changes(path, view.pipeline.cached_text(dep), manifest.text) if view.pipeline.status(dep, view.foreseen) else []


def _command_change(old: Any, new: str) -> str:
    """Name the words of the command that went and came."""
    before, after = (old if isinstance(old, str) else " && ".join(old or [])).split(), new.split()
    gone = " ".join(word for word in before if word not in after)
    come = " ".join(word for word in after if word not in before)
    return f"command: {gone or '(nothing)'} -> {come or '(nothing)'}" if gone or come else "command: order of its words"


def _param_changes(dep: Any) -> list[str]:
    """Name every param whose value differs from the one in dvc.lock, with both values."""
    locked, now = dep.hash_info.value or {}, dep.read_params()
    return [change for key in dep.params or {**locked, **now} for change in _differences(key, locked, now)]


def _differences(key: str, locked: Mapping[str, Any], now: Mapping[str, Any], name: str = "") -> list[str]:
    name = name or key
    old, new = locked.get(key, "(none)"), now.get(key, "(none)")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [change for inner in {**old, **new} for change in _differences(inner, old, new, f"{name}.{inner}")]
    return [] if old == new else [f"param {name}: {old} -> {new}"]


def _dep_change(path: str, status: str | None) -> list[str]:
    what = "code" if path.endswith(".py") else "dep"
    said = {"modified": f"{what} {path} changed", "deleted": f"{what} {path} is missing", "new": f"{what} {path} is new"}
    return [said.get(status, f"{what} {path}: {status}")] if status else []


def _out_change(path: str, status: str | None, remote: str | None) -> list[str]:
    pull = f" (`dvc pull {path}` may bring it from {remote})" if remote else ""
    said = {
        "modified": f"out {path} is not what the stage left",
        "deleted": f"out {path} is missing{pull}",
        "new": f"out {path} is new",
        "not in cache": f"out {path} is not in DVC's cache{pull}",
    }
    return [said.get(status, f"out {path}: {status}")] if status else []
