"""Checking proofs: start-up, candidates a second once warm, the cache, memory; beside a Lean started anew for every batch.

The peer is the same Lean without what keeps it warm: a process for each batch of 32, one theorem's samples. CPU seconds are those
of Lean's process, and say what a quiet core would take when other work shares the machine.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from tasks.prove.checker import Candidate, CheckerSettings
from tasks.prove.lean_wasm import LeanWasm
from tasks.prove.process import Process
from tasks.prove.recorded import Recorded, Verdicts
from tasks.prove.repl import ReplChecker

BATCH = 32
WARM_UP, MEASURED = 100, 400
TEMPLATES = [
    ("(a b : Nat) : a + b + {i} = b + a + {i} :=", "by omega"),
    ("(n : Nat) : n + {i} - {i} = n :=", "by simp"),
    (": {i} * {i} % 7 < 7 :=", "by decide"),
    ("(a b : Int) (h : a < b) : a + {i} < b + {i} :=", "by omega"),
    ("(a b : Int) (h : a < b) : a + {i} < b :=", "by omega"),
    ("(l : List Nat) : (l ++ [{i}]).length = l.length + 1 :=", "by simp"),
    ("(p q : Prop) (h : p ∧ q) : q ∧ p ∧ {i} = {i} :=", "⟨h.2, h.1, rfl⟩"),
    ("(n : Nat) : n ≤ n * n + {i} :=", "by\n  induction n with\n  | zero => simp\n  | succ k ih => grind"),
]
"""Provable and not, in the styles that provers write."""


def candidates(count: int, first: int = 0) -> list[Candidate]:
    """Return so many different candidates."""
    found = []
    for number in range(first, first + count):
        statement, proof = TEMPLATES[number % len(TEMPLATES)]
        statement = f"theorem t {statement.format(i=number // len(TEMPLATES) + 1)}"
        found.append(Candidate("t", statement, f"{statement} {proof}"))
    return found


def lean_seconds(checker: ReplChecker) -> float:
    """Return the CPU seconds of the checker's process so far."""
    assert isinstance(checker._talk, Process)
    times = psutil.Process(checker._talk._child.pid).cpu_times()
    return times.user + times.system


def main() -> None:
    """Print the table."""
    settings = CheckerSettings()
    with ReplChecker(LeanWasm(settings), settings) as checker, tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        checker.check(candidates(1))
        start, start_cpu = time.perf_counter() - begun, lean_seconds(checker)
        checker.check(candidates(WARM_UP))
        begun, cpu = time.perf_counter(), lean_seconds(checker)
        checker.check(candidates(MEASURED, WARM_UP))
        warm, warm_cpu = time.perf_counter() - begun, lean_seconds(checker) - cpu
        batch = candidates(MEASURED, WARM_UP)
        with Verdicts(Path(folder) / "verdicts.sqlite") as verdicts:
            cached = Recorded(verdicts, settings, "4.28.0", checker.check)
            cached.check(batch)
            begun = time.perf_counter()
            cached.check(batch)
            again = time.perf_counter() - begun
        checker.stop()
    rate, rate_cpu = MEASURED / warm, MEASURED / warm_cpu
    print(f"{'':34}{'wall':>10}{'CPU':>10}")
    print(f"{'start-up, s':34}{start:10.1f}{start_cpu:10.1f}")
    print(f"{'warm, candidates a second':34}{rate:10.1f}{rate_cpu:10.1f}   at least 10 wanted")
    cold, cold_cpu = BATCH / (start + BATCH / rate), BATCH / (start_cpu + BATCH / rate_cpu)
    print(f"{'a process for each 32':34}{cold:10.1f}{cold_cpu:10.1f}   ratio {rate / cold:.1f}, {rate_cpu / cold_cpu:.1f}")
    print(f"{f'the same {MEASURED} from the cache, s':34}{again:10.3f}{'':10}   under 1 wanted")
    peak = checker.peak_bytes / 2**30
    print(
        f"{'peak resident memory, GiB':34}{peak:10.2f}{'':10}   killed at {settings.memory_gib:g}; Lean's own heap is at most 2"
    )


if __name__ == "__main__":
    main()
