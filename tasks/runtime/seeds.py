"""The seeds of a cheap stage, side by side: one forked process each, as many at once as the cores allow.

Forking after the imports and before the first tensor operation pays the import of torch once. How many run at once is
place, not identity: each seed computes with its own fixed number of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from tasks.runtime.params import UserError
from tasks.runtime.stage import PREEMPTED, REFUSED, Preempted, die_with_parent, exit_code


def for_each_seed(work: Callable[[int], None], seeds: Sequence[int], threads: int) -> None:
    """Call `work(seed)` for every seed, each in a process of its own; results are what `work` leaves on disk.

    When one seed fails the others still finish, so that nothing done is lost. Then raises UserError, Preempted or
    RuntimeError for the worst of them; its own message is on stderr.
    """
    context = multiprocessing.get_context("fork")
    waiting = [(seed, context.Process(target=_child, args=(work, seed))) for seed in seeds]
    running: dict[int, ForkProcess] = {}
    codes: dict[int, int] = {}
    slots = max(1, (os.cpu_count() or 1) // threads)
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                seed, process = waiting.pop(0)
                process.start()
                running[seed] = process
            wait([process.sentinel for process in running.values()])
            for seed in [seed for seed, process in running.items() if not process.is_alive()]:
                codes[seed] = _code(running.pop(seed))
    finally:
        _stop(running)
    _raise_worst(codes)


def _child(work: Callable[[int], None], seed: int) -> None:
    die_with_parent()
    sys.exit(exit_code(lambda: work(seed), f"seed {seed}"))


def _code(process: ForkProcess) -> int:
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _stop(running: dict[int, ForkProcess]) -> None:
    """Pass a stop on to the seeds still running and wait for their last checkpoint."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.join()


def _raise_worst(codes: dict[int, int]) -> None:
    bad = {seed: code for seed, code in codes.items() if code}
    said = ", ".join(f"seed {seed} ended with {code}" for seed, code in sorted(bad.items()))
    if REFUSED in bad.values():
        raise UserError(f"{said}; its reason is above")
    if bad and set(bad.values()) == {PREEMPTED}:
        raise Preempted(said)
    if bad:
        raise RuntimeError(f"{said}; its reason is above")
