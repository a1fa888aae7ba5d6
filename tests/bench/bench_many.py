"""Ten thousand stages: what a plan costs, what scheduling them on a hundred workers costs, and how near the best it comes.

Plans are those of `temper plan` on a made-up project (tests/flows/many.py), once when nothing has ever run and once when nothing
is stale, beside `dvc status` at a tenth of the size. Workers are simulated: they wait in a time that only counts.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.planning.graph import Graph
from tests.flows.many import finish, make
from tests.flows.simulation import lower_bound, simulate

STAGES, WORKERS = 10_000, 100
LIMIT = 10.0
"""Seconds that a plan of that many stages may take."""


def measured(root: Path, *command: str) -> tuple[float, float, float]:
    """Return wall and processor seconds and the peak memory in MiB of a command."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=root, stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0, command
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def plans(root: Path, size: int) -> tuple[Graph, list[tuple[str, tuple[float, float, float], str]]]:
    """Measure plans of a project of `size` stages; return its graph and the rows of the table."""
    make(root, size)
    rows = [("never run", measured(root, "flows.cli", "plan", *ALL), f"at most {LIMIT:.0f} s")]
    graph = finish(root)
    rows.append(("up to date, hashed anew", measured(root, "flows.cli", "plan", *ALL), ""))
    rows.append(("up to date", measured(root, "flows.cli", "plan", *ALL), f"at most {LIMIT:.0f} s"))
    return graph, [(f"temper plan, {len(graph.stages):,} stages, {name}", figures, told) for name, figures, told in rows]


ALL = ("gather", "link", "evaluate")


def main() -> None:
    """Measure and print both tables. On a busy machine wall times grow, and the processor's tell more."""
    with tempfile.TemporaryDirectory() as folder:
        _, small = plans(Path(folder) / "small", STAGES // 10)
        peer = measured(Path(folder) / "small", "dvc", "status", "--quiet")
        graph, large = plans(Path(folder) / "large", STAGES)
    rows = [("dvc status, a tenth of the stages, up to date", peer, ""), *small, *large]
    print(f"{'command':58}{'wall s':>9}{'cpu s':>9}{'MiB':>7}  to reach")
    for name, (wall, processor, memory), told in rows:
        print(f"{name:58}{wall:>9.1f}{processor:>9.1f}{memory:>7.0f}  {told}")
    schedules(graph)


def schedules(graph: Graph) -> None:
    """Simulate runs in the order of the plan, and by what stages took before: exactly, or as another run of them would."""
    print(f"\n{'stages':>8}{'workers':>9}{'seconds of a stage':>20}{'known':>10}{'makespan / bound':>18}{'cpu us a stage':>16}")
    order = graph.order(graph.stages)
    needs = {name: graph.needs[name] for name in order}
    for low, high in ((60, 60), (10, 600), (1, 3600)):
        draw = random.Random(0)
        seconds = {name: draw.uniform(low, high) for name in order}
        before = {name: value * draw.lognormvariate(0, 0.5) for name, value in seconds.items()}
        for known, told in (("nothing", None), ("roughly", before), ("exactly", seconds)):
            started = time.process_time()
            ran = simulate(order, needs, seconds, WORKERS, told)
            used = (time.process_time() - started) / len(order) * 1e6
            ratio = ran.makespan / lower_bound(needs, seconds, WORKERS)
            print(f"{len(order):>8,}{WORKERS:>9}{f'{low} to {high}':>20}{known:>10}{ratio:>18.4f}{used:>16.1f}")


if __name__ == "__main__":
    main()
