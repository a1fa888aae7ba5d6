"""What a distillation step costs in time and memory against a hard-label step of the same rows, model and optimizer.

    python tests/bench/bench_distil.py [--steps 6] [--rounds 5] [--vocabulary 645] [--width 128]

A step is the batch as the data loader makes it (reading, recalibrating), forward, backward and AdamW. The targets take turns
within a round; processor time of one thread, the best round counts. Memory is the peak of all tensors alive in a step, weights,
gradients and the optimizer's state among them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from tasks.distill.student import Batches, Measure, matching
from tasks.distill.teacher_topk import write
from tasks.distill.topk_file import Header, TopK, Writer
from tasks.distill.trustworthy import WAYS, Recalibration
from tasks.runtime.progress import Progress
from tests.bench.bench_topk import BATCH, data, model

FOUND = Recalibration(
    c=0.3,
    teacher="t",
    n_valid=1,
    mass=1,
    accuracy=1,
    ece_before=0,
    ece_after=0,
    values={"trustworthy": 0.3, "temperature": 1.2, "smoothing": 0.1, "renormalised": 0},
    ece=dict.fromkeys(WAYS, 0.0),
    grid=[],
)


Step = Callable[[Sequence[Any]], None]


def peak(step: Step, rows: Sequence[Any], *owners: Any) -> int:
    """Return the most bytes of tensors alive during a step; `owners` hold tensors made before it."""
    tracker = MemTracker()
    tracker.track_external(*owners)
    with tracker:
        step(rows)
    return int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 6), ("rounds", 5), ("vocabulary", 645), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = data(BATCH * given.steps, 128, given.vocabulary)
    teacher, student = model(given.vocabulary, given.width), model(given.vocabulary, given.width).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)
    best: dict[str, float] = {}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.topk"
        header = Header(positions=rows.offsets[-1], k=5, vocabulary=given.vocabulary, teacher="t", tokenizer="t", data="d")
        write(teacher, rows, Writer(path, header), BATCH, 0, Progress("bench", rows.offsets[-1], "positions", interval=1e9))
        file = TopK(path)
        for _ in range(given.rounds):
            for target in ("hard", "trustworthy", "temperature", "renormalised", "rest", "full"):
                made, measure = Batches(rows, file, 0, target, FOUND), matching(target, teacher if target == "full" else None)

                def step(few: Sequence[Any], made: Batches = made, measure: Measure = measure) -> None:
                    (measure(student, made(few)) / BATCH / 128).backward()
                    optimizer.step()
                    optimizer.zero_grad()

                numbered = made.numbered
                started = time.process_time()
                for start in range(0, len(numbered), BATCH):
                    step(numbered[start : start + BATCH])
                best[target] = min(best.get(target, float("inf")), time.process_time() - started)
                if target not in memory:
                    memory[target] = peak(step, numbered[:BATCH], student, optimizer, *([teacher] if target == "full" else []))
    for target, seconds in best.items():
        print(
            f"{target:14}{seconds / given.steps * 1000:9.1f} ms a step{seconds / best['hard']:8.3f}x a hard-label step"
            f"{memory[target] / 2**20:9.1f} MiB at its peak{memory[target] / memory['hard']:8.3f}x"
        )


if __name__ == "__main__":
    main()
