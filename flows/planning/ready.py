"""Which stage may start next: one whose needs have all ended, and of those the one at the head of the longest chain.

Ten thousand stages cannot each wait in a thread of its own. The queue gives out a stage when its turn has come and is told when
it has ended; both cost as much as the stage has neighbours.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence


class Ready:
    """The stages of a plan that have not been given out, and those that wait for them."""

    def __init__(
        self, order: Sequence[str], needs: Mapping[str, Iterable[str]], seconds: Mapping[str, float] | None = None
    ) -> None:
        """Take the stages in the order of the plan, and how long each is likely to take; without that the plan's order counts.

        What a stage needs outside the plan counts as ended.
        """
        self._names = sorted(order, key=_chains(order, needs, seconds).__getitem__, reverse=True) if seconds else list(order)
        self._rank = {name: place for place, name in enumerate(self._names)}
        self._readers: dict[str, list[str]] = {name: [] for name in order}
        self._waits: dict[str, int] = {}
        for name in order:
            inside = {other for other in needs[name] if other in self._rank}
            self._waits[name] = len(inside)
            for other in inside:
                self._readers[other].append(name)
        self._ready = [self._rank[name] for name in order if not self._waits[name]]
        heapq.heapify(self._ready)

    def take(self) -> str | None:
        """Give out the next stage; None when every other one waits for something."""
        return self._names[heapq.heappop(self._ready)] if self._ready else None

    def ended(self, name: str) -> None:
        """Hear that a stage has ended, however it did."""
        for reader in self._readers[name]:
            self._waits[reader] -= 1
            if not self._waits[reader]:
                heapq.heappush(self._ready, self._rank[reader])


def _chains(order: Sequence[str], needs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return for each stage the time from its start to the end of the longest chain that begins with it."""
    after = dict.fromkeys(order, 0.0)
    for name in reversed(order):
        after[name] += seconds.get(name, 0.0)
        for other in needs[name]:
            if other in after:
                after[other] = max(after[other], after[name])
    return after
