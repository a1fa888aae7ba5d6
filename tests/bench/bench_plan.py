"""What it costs to find out that nothing is to be done: `temper plan` and `temper run` beside plain `dvc repro`.

The project is cloned with its real dvc.yaml, params and modules. Every out is written by hand and committed to DVC, so that
nothing is stale; the outs are small, since DVC keeps the hashes of unchanged files whatever their size.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from tasks.runtime.imports import ROOT

TIMES = 5


def finished(place: Path) -> Path:
    """Clone the project to `place` and make everything in it up to date without running a stage."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
    graph = load_graph(place, effective_params(place, None))
    for stage in graph.stages.values():
        for out in stage.outs:
            path = place / out.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n" if path.suffix == ".json" else f"{stage.name}\n")
    subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "dvc.yaml"], cwd=place, check=True)
    return place


def seconds(root: Path, *command: str) -> tuple[float, float]:
    """Return the medians of wall and processor time of a command over `TIMES` runs, after one that warms the disk's cache."""
    walls, processors = [], []
    for _ in range(TIMES + 1):
        started, used = time.monotonic(), processor_time()
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False)
        walls.append(time.monotonic() - started)
        processors.append(processor_time() - used)
        assert done.returncode == 0, done.stderr
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def processor_time() -> float:
    """Return the processor time that all ended children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print the table. On a busy machine wall times grow, and the processor's tell more."""
    with tempfile.TemporaryDirectory() as folder:
        root = finished(Path(folder) / "temper")
        peer = seconds(root, "dvc", "repro")
        rows = [("dvc repro, nothing stale", peer, "")]
        for command, limit in ((("plan",), "at most 3 s"), (("run",), "at most 4 s"), (("--help",), "")):
            rows.append((f"temper {' '.join(command)}", seconds(root, "flows.cli", *command), limit))
    print(f"{'command':28}{'wall s':>9}{'ratio':>8}{'cpu s':>9}{'ratio':>8}  to reach   (medians of {TIMES})")
    for name, (wall, processor), limit in rows:
        print(f"{name:28}{wall:>9.2f}{wall / peer[0]:>8.2f}{processor:>9.2f}{processor / peer[1]:>8.2f}  {limit}")


if __name__ == "__main__":
    main()
