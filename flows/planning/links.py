"""Which stage needs which, from the paths they declare: DVC's rules, in time that grows with the number of paths and no faster.

A stage needs another whose out its dep is, lies in, or holds. Whatever DVC would refuse (two outs in one place, one inside
another, an out around a dvc.yaml, a circle) is left to DVC, which says so in its own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.planning.declared import Declared


class Irregular(Exception):
    """There is something in the graph that DVC has to look at."""


def needs(stages: Mapping[str, Declared], files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each stage the stages it needs, in the order of `stages`. Raises Irregular."""
    makers, below = _outs(stages)
    if any(folder in makers for file in files for folder in (file, *folders(file))):
        raise Irregular
    rank = {name: place for place, name in enumerate(stages)}
    found = {
        stage.name: tuple(sorted({name for dep in stage.deps for name in _makers(dep, makers, below)}, key=rank.__getitem__))
        for stage in stages.values()
    }
    if not acyclic(found):
        raise Irregular
    return found


def folders(path: str) -> Iterable[str]:
    """Yield every folder above a path, the root `.` first."""
    yield "."
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)


def acyclic(needed: Mapping[str, Iterable[str]]) -> bool:
    """Tell whether stages can be put in an order in which each comes after all it needs."""
    waiting = {name: len(set(others)) for name, others in needed.items()}
    readers: dict[str, list[str]] = {name: [] for name in needed}
    for name, others in needed.items():
        for other in set(others):
            readers[other].append(name)
    ready = [name for name, count in waiting.items() if not count]
    done = 0
    while ready:
        done += 1
        for reader in readers[ready.pop()]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return done == len(waiting)


def _outs(stages: Mapping[str, Declared]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return who makes each out, and who makes something below each folder. Raises Irregular where outs overlap."""
    makers: dict[str, str] = {}
    below: dict[str, list[str]] = {}
    for stage in stages.values():
        for out in stage.outs:
            if out.path in makers or out.path == ".":
                raise Irregular
            makers[out.path] = stage.name
            for folder in folders(out.path):
                below.setdefault(folder, []).append(stage.name)
    if makers.keys() & below.keys():
        raise Irregular
    return makers, below


def _makers(dep: str, makers: Mapping[str, str], below: Mapping[str, list[str]]) -> Iterable[str]:
    yield from below.get(dep, ())
    for folder in (dep, *folders(dep)):
        if folder in makers:
            yield makers[folder]
