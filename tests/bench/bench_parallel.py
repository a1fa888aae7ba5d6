"""Eight independent stages that sleep two seconds: through Prefect, its server already up, beside plain `dvc repro`.

Both sides start from the same fresh checkout, take turns, and are whole processes: what is measured is a user's wait.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.server import start_in_background
from tasks.runtime.imports import ROOT

sys.path.insert(0, str(ROOT))  # `tests` is no installed package
from tests.flows.checkout import environment, make_checkout

STAGES, SLEEP, ROUNDS = 8, 2, 3
THROUGH_PREFECT = """
import time
from pathlib import Path
from flows.pipeline import run
from tests.flows.checkout import planned
began = time.monotonic()
assert not run(Path().resolve(), *planned(Path().resolve())).failed
print(time.monotonic() - began)
"""


def checkout(place: Path) -> Path:
    """Make a checkout of independent stages."""
    stages = "".join(f"  s{n}:\n    cmd: sleep {SLEEP}; echo {n} > s{n}\n    outs: [s{n}]\n" for n in range(STAGES))
    return make_checkout(place, stages)


def plain(place: Path) -> float:
    """Return the wall time of `dvc repro`."""
    return timed([sys.executable, "-m", "dvc", "repro", "--quiet"], checkout(place))[0]


def through_prefect(place: Path, api_url: str) -> tuple[float, float]:
    """Return the wall time of a whole process that plans and runs, and the part of it that is the run alone."""
    wall, said = timed([sys.executable, "-c", THROUGH_PREFECT], checkout(place), PREFECT_API_URL=api_url, PYTHONPATH=str(ROOT))
    return wall, float(said.splitlines()[-1])


def timed(command: list[str], root: Path, **more: str) -> tuple[float, str]:
    """Run a command; return its wall time and what it printed."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environment(**more), capture_output=True, text=True, check=False)
    wall = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    return wall, done.stdout


def main() -> None:
    """Measure in turns and print the table, best of the rounds."""
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory() as folder:
        server = start_in_background(Path(folder))
        server.wait()
        rounds = []
        for turn in range(ROUNDS):
            peer = plain(Path(folder) / f"plain-{turn}")
            rounds.append((peer, *through_prefect(Path(folder) / f"prefect-{turn}", server.api_url)))
        server.stop()
    peer, whole, alone = (min(column) for column in zip(*rounds, strict=True))
    print(f"{STAGES} independent stages of {SLEEP} s on {os.cpu_count()} cores, best of {ROUNDS}")
    print(f"{'':48}{'wall s':>8}{'ratio':>8}  to reach")
    print(f"{'dvc repro':48}{peer:>8.1f}{1:>8.2f}")
    print(f"{'through Prefect, server up':48}{whole:>8.1f}{whole / peer:>8.2f}  at most 0.80")
    print(f"{'  without starting Python and importing Prefect':48}{alone:>8.1f}{alone / peer:>8.2f}")


if __name__ == "__main__":
    main()
