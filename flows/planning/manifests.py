"""Code that a stage depends on through a manifest (tasks.runtime.manifest): what the manifest will say, and what is new in it.

A manifest is a pure function of the code, so a plan needs not wait for the stage that writes it: an edited module makes
stale, before anything runs, exactly the cells whose manifest names it, and the plan says which module that was.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from flows.planning.graph import MANIFEST, Graph, Stage
from tasks.runtime.manifest import code_of, manifests, read, render


@dataclass(frozen=True)
class Foreseen:
    """A file as it will be: what DVC would find of it."""

    text: str

    @property
    def hash_info(self) -> HashInfo:
        """The hash that DVC gives a file of this text."""
        return HashInfo("md5", hashlib.md5(self.text.encode(), usedforsecurity=False).hexdigest())

    @property
    def meta(self) -> Meta:
        """What DVC notes beside the hash."""
        return Meta(size=len(self.text.encode()))


def foreseen(graph: Graph, root: Path) -> dict[str, Foreseen]:
    """Return every manifest that stages of `graph` write, by its path, as the code at `root` has it now."""
    return {
        str(path): Foreseen(render(code_of(module, root)))
        for stage in graph.stages.values()
        if writes_manifests(stage)
        for path, module in manifests(shlex.split(stage.cmd.partition(MANIFEST)[2])).items()
    }


def writes_manifests(stage: Stage) -> bool:
    """Tell whether the outs of a stage are manifests."""
    return f"-m {MANIFEST} " in stage.cmd


def changes(path: str, before: str | None, now: str) -> list[str]:
    """Name every module in which two texts of the manifest at `path` differ; `before` is None when nobody kept it."""
    if before is None:
        return [f"code in {path} changed"]
    old, new = read(before), read(now)
    different = sorted(module for module in {**old, **new} if old.get(module) != new.get(module))
    return [f"code {module} {_change(module, old, new)}" for module in different]


def _change(module: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if module not in new:
        return "is no longer reached"
    return "changed" if module in old else "is new"
