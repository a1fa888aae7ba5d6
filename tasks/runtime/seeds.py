"""The parts of a cheap stage, mostly its seeds, side by side: one forked process each, as many at once as the cores allow.

Forking after the imports and before the first tensor operation pays the import of torch once. How many run at once is
place, not identity: each part computes with its own fixed number of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress
from tasks.runtime.stage import PREEMPTED, REFUSED, Lost, Preempted, die_with_parent, exit_code


def for_each_seed(work: Callable[[int], None], seeds: Sequence[int], threads: int) -> None:
    """Call `work(seed)` for every seed, each in a process of its own, as `side_by_side` does."""
    side_by_side({f"seed {seed}": partial(work, seed) for seed in seeds}, threads)


def side_by_side(parts: Mapping[str, Callable[[], None]], threads: int, progress: Progress | None = None) -> None:
    """Call every part by name, each in a process of its own with `threads` threads; results are what a part leaves on disk.

    `progress` counts the parts. When one fails the others still finish, so that nothing done is lost. Then raises
    UserError, RuntimeError, Lost or Preempted for the worst of them; its own message is on stderr.
    """
    context = multiprocessing.get_context("fork")
    waiting = [(name, context.Process(target=_child, args=(part, name, os.getpid()))) for name, part in parts.items()]
    running: dict[str, ForkProcess] = {}
    codes: dict[str, int] = {}
    slots = max(1, (os.cpu_count() or 1) // threads)
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                name, process = waiting.pop(0)
                process.start()
                running[name] = process
            wait([process.sentinel for process in running.values()])
            for name in [name for name, process in running.items() if not process.is_alive()]:
                codes[name] = _code(running.pop(name))
                if progress:
                    progress.advance(note=name)
    finally:
        _stop(running)
    _raise_worst(codes)


def _child(part: Callable[[], None], name: str, parent: int) -> None:
    """Be one part. What the parent has registered for its own end, threads it waits for among it, is not run here."""
    die_with_parent(parent)
    code = exit_code(part, name)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(process: ForkProcess) -> int:
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _stop(running: dict[str, ForkProcess]) -> None:
    """Pass a stop on to the parts still running and wait for their last checkpoint."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.join()


def _raise_worst(codes: dict[str, int]) -> None:
    bad = {name: code for name, code in codes.items() if code}
    said = ", ".join(f"{name} ended with {code}" for name, code in sorted(bad.items()))
    if REFUSED in bad.values():
        raise UserError(f"{said}; its reason is above")
    if any(code > 0 and code != PREEMPTED for code in bad.values()):
        raise RuntimeError(f"{said}; its reason is above")
    if any(code < 0 for code in bad.values()):
        raise Lost(f"{said}: by a signal, for want of memory or by hand; the others are done or in a checkpoint")
    if bad:
        raise Preempted(said)
