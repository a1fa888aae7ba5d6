"""The flow that deployments run (infra/prefect.yaml): the pipeline of a checkout, in the process of a worker.

Started from the page, by a schedule or by an event, it does what `temper run` does by hand, and waits for its turn.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import State

from flows import locks
from flows.host import TOOLS, kept
from flows.pipeline import LOOK, Stages, run_name
from flows.planning import studies
from flows.redact import redacted
from flows.workers.pool import Pools
from tasks.runtime.params import UserError


@flow(name="temper", persist_result=False, flow_run_name=lambda: _name(Path.cwd(), flow_run.parameters))
def temper(
    profile: str | None = None,
    sets: list[str] | None = None,
    stages: list[str] | None = None,
    force: bool = False,
    workers: Literal["here", "pool"] = "here",
) -> State[Any]:
    """Bring the pipeline of this checkout up to date, `stages` or all; every parameter as on the command line.

    It waits for a run that somebody has started by hand.
    """
    from flows.cli import keep_page_in_step, prepare
    from flows.planning.overlay import applied, recover
    from tasks.runtime.stage import die_with_parent

    die_with_parent()
    root = Path.cwd()
    recover(root)
    with ExitStack() as stack:
        stack.enter_context(_turn(root))
        locks.recover(root)
        try:
            prepared = prepare(root, stages, profile, sets)
        except UserError as error:
            raise UserError(redacted(str(error))) from None
        planned = prepared.plan(prepared.forced(bool(stages)) if force else ())
        stack.enter_context(applied(root, prepared.params))
        pools = None
        if workers == "pool":
            pools = Pools(root, prepared.graph, prepared.params, stack.enter_context(kept(root, "tools", TOOLS)))
        run = Stages(root, prepared.graph, planned, prepared.params, profile, pools=pools)
        state = run.run()
        if not run.result().failed:
            keep_page_in_step(prepared)
        return state


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    """Hold the checkout for a run, once nobody else does."""
    from flows.planning.overlay import RUN_LEASE
    from tasks.runtime.lease import Lease

    with ExitStack() as held:
        for tries in itertools.count():
            try:
                held.enter_context(Lease(root / RUN_LEASE, "this checkout"))
                break
            except UserError as busy:
                if not tries:
                    get_run_logger().info("waiting for its turn: %s", busy)
                time.sleep(LOOK)
        yield


def _name(root: Path, parameters: Mapping[str, Any]) -> str:
    """Return the name of a run that a deployment has started; what is wrong with its parameters is told later."""
    named = [str(stage).removesuffix(studies.SUFFIX) for stage in parameters.get("stages") or []]
    return run_name(root, parameters.get("profile"), [name for name in named if name in studies.study_names(root)])
