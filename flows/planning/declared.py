"""What each stage declares, read off its entry in dvc.yaml once DVC has filled in the templates.

DVC makes an object of every dep and out, which takes longer than all else in a plan of thousands of stages. An ordinary entry
(paths inside the checkout, no option beyond `cache` and `persist`) says the same by itself; whatever is not ordinary is asked of
DVC's objects. A test holds the two readings against each other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dvc.dependency.param import ParamsDependency
from dvc.schema import PLOT_PROPS
from dvc.stage import PipelineStage

OutKind = Literal["out", "metric", "plot"]
KINDS: Mapping[str, OutKind] = {"outs": "out", "metrics": "metric", "plots": "plot"}
ORDINARY = {"cmd", "wdir", "deps", "params", "meta", "desc", "frozen", "always_changed", *KINDS}
OPTIONS = {"cache", "persist"}
STAGE_FILE = re.compile(r"(.*/)?(dvc\.yaml|[^/]*\.dvc)")
"""A name that no out may have: DVC would take it for a description of stages."""


@dataclass(frozen=True)
class DeclaredOut:
    """One output."""

    path: str
    """Relative to the root."""
    kind: OutKind
    plot: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = True
    """Whether it is kept in DVC's cache."""


@dataclass(frozen=True)
class Declared:
    """One stage, as dvc.yaml has it for given params."""

    name: str
    file: str
    """The dvc.yaml it stands in, relative to the root."""
    cmd: str | list[str] | None
    deps: tuple[str, ...]
    """Relative to the root, params excluded."""
    params: tuple[str, ...]
    """The keys that DVC compares, of all its files of params."""
    outs: tuple[DeclaredOut, ...]
    frozen: bool = False
    always_changed: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    """Where its command runs, relative to the root; None where the entry is not ordinary and only DVC's object tells all."""

    @property
    def lonely(self) -> bool:
        """Tell whether it neither reads nor makes anything, so that DVC runs it always."""
        return bool(self.cmd) and not (self.deps or self.params or self.outs)


def read(name: str, entry: Mapping[str, Any], file: str) -> Declared | None:
    """Return what an entry of the dvc.yaml at `file` declares; None when it is not an ordinary one."""
    folder = _join(posixpath.dirname(file), entry.get("wdir", "."))
    deps, params = entry.get("deps", []), entry.get("params", [])
    if entry.keys() - ORDINARY or folder is None or not all(isinstance(one, str) for one in (*deps, *params)):
        return None
    paths, outs = [_join(folder, dep) for dep in deps], list(_outs(entry, folder))
    if None in paths or None in outs or (params and folder != "."):
        return None
    return Declared(
        name=name,
        file=file,
        cmd=entry.get("cmd"),
        deps=tuple(path for path in paths if path is not None),
        params=tuple(params),
        outs=tuple(out for out in outs if out is not None),
        frozen=bool(entry.get("frozen")),
        always_changed=bool(entry.get("always_changed")),
        meta=entry.get("meta") or {},
        folder=folder,
    )


def of(stage: PipelineStage, root: str, deps: Iterable[tuple[Any, str]], outs: Iterable[tuple[Any, str]]) -> Declared:
    """Return what one of DVC's own objects declares; `deps` and `outs` come with their paths relative to the root."""
    return Declared(
        name=stage.name,
        file=posixpath.relpath(stage.path, root),
        cmd=stage.cmd,
        deps=tuple(path for dep, path in deps if not isinstance(dep, ParamsDependency)),
        params=tuple(key for dep, _ in deps if isinstance(dep, ParamsDependency) for key in dep.params),
        outs=tuple(DeclaredOut(path, _kind(out), _plot(out), out.use_cache) for out, path in outs),
        frozen=stage.frozen,
        always_changed=stage.always_changed,
        meta=stage.meta or {},
    )


def _kind(out: Any) -> OutKind:
    if out.metric:
        return "metric"
    return "plot" if out.plot else "out"


def _plot(out: Any) -> Mapping[str, Any]:
    return out.plot if isinstance(out.plot, dict) else {}


def _outs(entry: Mapping[str, Any], folder: str) -> Iterable[DeclaredOut | None]:
    """Yield the outs in DVC's order; None for one that is not ordinary."""
    for key, kind in KINDS.items():
        seen: set[str] = set()
        for stated in entry.get(key, []):
            options = {stated: {}} if isinstance(stated, str) else stated
            for path, given in options.items():
                plot = {name: value for name, value in given.items() if name in PLOT_PROPS} if kind == "plot" else {}
                place = _join(folder, path)
                if place is None or path in seen or given.keys() - plot.keys() - OPTIONS or STAGE_FILE.fullmatch(place):
                    yield None
                else:
                    yield DeclaredOut(place, kind, plot, given.get("cache", True))
                seen.add(path)


def _join(folder: str, path: str) -> str | None:
    """Return where `path` lies, relative to the root; None where it leaves it or is no plain path."""
    if "://" in path or "\\" in path or path.startswith(("/", "~")):
        return None
    joined = posixpath.normpath(posixpath.join(folder, path))
    return None if joined.split("/")[0] == ".." else joined
