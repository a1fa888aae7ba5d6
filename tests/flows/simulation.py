"""Runs the queue of stages with workers that only wait, in a time that only counts: what scheduling itself makes of a graph."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flows.planning.ready import Ready


@dataclass
class Ran:
    """When each stage started and ended, in simulated seconds."""

    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    @property
    def makespan(self) -> float:
        """Return when the last stage ended."""
        return max(self.ended.values(), default=0.0)


def simulate(
    order: Sequence[str],
    needs: Mapping[str, Iterable[str]],
    seconds: Mapping[str, float],
    workers: int,
    known: Mapping[str, float] | None = None,
) -> Ran:
    """Run stages on `workers`, each as soon as it is ready and a worker is free; `known` is what the queue is told."""
    ready, ran, now, free = Ready(order, needs, known), Ran(), 0.0, workers
    running: list[tuple[float, str]] = []
    while True:
        while free and (name := ready.take()) is not None:
            free -= 1
            ran.started[name] = now
            heapq.heappush(running, (now + seconds[name], name))
        if not running:
            return ran
        now, name = heapq.heappop(running)
        free += 1
        ran.ended[name] = now
        ready.ended(name)


def lower_bound(needs: Mapping[str, Iterable[str]], seconds: Mapping[str, float], workers: int) -> float:
    """Return what no schedule can beat: the longest chain, and all the work shared out evenly; `needs` come in order."""
    longest: dict[str, float] = {}
    for name, others in needs.items():
        longest[name] = seconds[name] + max((longest[other] for other in others), default=0.0)
    return max(max(longest.values(), default=0.0), sum(seconds.values()) / workers)
