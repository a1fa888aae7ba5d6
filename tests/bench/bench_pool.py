"""A stage on a work pool beside the same stage here: real Prefect server, a warm worker, an S3 server, no deps to bring.

    PYTHONPATH=. python tests/bench/bench_pool.py

Both sides have their processes up and take turns; what differs is all that a pool adds, the transfer of one small out included.
Below the totals stands where the time of the pool went, by what the server and the worker have noted.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.host import TOOLS, kept
from flows.planning.graph import Stage, load_graph
from flows.stage import Children, attempt
from flows.workers.pool import Pools
from tasks.runtime.imports import ROOT

sys.path.insert(0, str(ROOT))  # `tests` is no installed package
from tests.flows.site import Site

STAGES = """\
  empty:
    cmd: mkdir -p out && echo done > out/empty
    outs: [out/empty]
"""
ROUNDS, WANTED = 7, 3.0


def here(root: Path, stage: Stage) -> float:
    """Return the seconds of the stage as a run here has them."""
    began = time.monotonic()
    ended = attempt(root, stage, Children(), force=True, say=_silent, watch=lambda *_: None)
    assert ended.ending == "completed", ended.detail
    return time.monotonic() - began


def there(pools: Pools, stage: Stage) -> tuple[float, dict[str, float]]:
    """Return the seconds of the stage on the pool, and where they went."""
    with get_client(sync_client=True) as client:
        began = time.time()
        ended = pools.attempt(stage, Children(), force=True, say=_silent, client=client)
        over = time.time()
        assert ended.ending == "completed", ended.detail
        run = max(client.read_flow_runs(), key=lambda one: one.created)
        at = {state.type.value: state.timestamp.timestamp() for state in client.read_flow_run_states(run.id)}
    phases = {
        "request made and sent": at["SCHEDULED"] - began,
        "until the worker takes it": at["PENDING"] - at["SCHEDULED"],
        "until its process runs": at["RUNNING"] - at["PENDING"],
        "the stage itself": ended.seconds,
        "checkout, push, telling": at["COMPLETED"] - at["RUNNING"] - ended.seconds,
        "noticed, recorded, pulled": over - at["COMPLETED"],
    }
    return over - began, phases


def table(alone: list[float], pooled: list[float], phases: list[Mapping[str, float]]) -> None:
    """Print the medians."""
    cost = median(there - here for here, there in zip(alone, pooled, strict=True))
    print(f"{'':32}{'s':>6}  median of {ROUNDS}")
    print(f"{'here':32}{median(alone):>6.2f}")
    print(f"{'on a pool':32}{median(pooled):>6.2f}")
    print(f"{'what the pool adds':32}{cost:>6.2f}  at most {WANTED:.0f}")
    for name in phases[0]:
        print(f"  {name:30}{median(one[name] for one in phases):>6.2f}")


def _silent(line: str) -> None:
    pass


def main() -> None:
    """Warm both sides up with one stage each, then measure in turns."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), STAGES)
        try:
            measure(site)
        finally:
            site.close()


def measure(site: Site) -> None:
    """Run the stage here and there in turns and print the table."""
    os.environ.update(site.variables)
    site.worker("cpu", "worker")
    graph = load_graph(site.root, {"work": {}})
    stage = graph.stages["empty"]
    settings = {"api.url": site.variables["PREFECT_API_URL"], "logging.level": "ERROR"}
    with temporary_settings(settings), kept(site.root, "tools", TOOLS) as tools:
        pools = Pools(site.root, graph, {"work": {}}, tools)
        there(pools, stage)
        here(site.root, stage)
        rounds = [(here(site.root, stage), *there(pools, stage)) for _ in range(ROUNDS)]
    alone, pooled, phases = (list(column) for column in zip(*rounds, strict=True))
    table(alone, pooled, phases)


if __name__ == "__main__":
    main()
