"""The pipeline as a Prefect flow: one task a stage, edges as in dvc.yaml, independent stages side by side.

DVC alone decides what is up to date, so Prefect's caching and stored results are off: a stage is a child process
(flows.stage) and its task run is the view of it. The plan is made beforehand; an unchanged stage appears as `Cached` and
starts nothing.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import TerminationSignal
from prefect.flows import Flow
from prefect.futures import PrefectWrappedFuture
from prefect.logging import get_run_logger
from prefect.logging.formatters import PrefectFormatter
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run
from prefect.settings import temporary_settings
from prefect.states import Cancelled, Completed, Failed, State
from prefect.tasks import Task
from prefect.utilities.annotations import allow_failure

from flows import sound
from flows.host import TOOLS, kept, warm
from flows.planning import history
from flows.planning.graph import Graph, RunResult, Stage, StageResult, Step
from flows.planning.ready import Ready
from flows.redact import redacted
from flows.server import start_in_background
from flows.stage import Children, Outcome, attempt
from flows.watching import monitoring
from flows.watching.addresses import of_run, remote_of, served_at
from flows.watching.artifacts import Page, Shown, scores_of
from flows.watching.monitoring import Watch
from flows.workers.gpus import Stopped, devices, lent
from flows.workers.pool import Pools
from tasks.runtime.params import UserError
from tasks.runtime.stage import REFUSED

FINE = ("completed", "cached")
STOPPED = "stopped; it goes on from its last checkpoint when run again"
RETRIES = 2
"""How often a stage that lost its process is started again, each time from its last checkpoint."""
LIGHT_PER_CORE = 4
"""Stages at once for each core, as long as the threads that heavy ones name do not exceed the cores."""
AHEAD = 256
"""Tasks begun and not ended: room for as many workers, and for light stages to pass heavy ones that wait for cores."""
SHOWN = 500
"""Unchanged stages that appear on the page: each costs a twentieth of a second of a core there. More are only in the summary."""
LOOK = 5.0
"""Seconds between two looks at whether somebody pressed Cancel on the page."""
DRAIN = 10.0
"""Seconds to wait for the last log lines and states to reach the server."""


def run(
    root: Path,
    graph: Graph,
    steps: Sequence[Step],
    params: Mapping[str, Any],
    *,
    profile: str | None = None,
    jobs: int | None = None,
    on_workers: bool = False,
) -> RunResult:
    """Run the stale `steps` and return how every stage ended; `jobs` limits how many run at once.

    `on_workers` sends each stage to the work pool of its kind (flows.workers.pool) instead of running it here.

    The server is the one that `start_in_background` gives; its address is printed. Raises ServerError when it does not come
    up, and KeyboardInterrupt after a stop, once every stage has written its checkpoint. A server that is lost in the middle
    costs the view, not the work.
    """
    server = start_in_background(root)
    server.wait()
    took = f" (up after {server.seconds:.1f} s)" if server.log else ""
    print(f"Prefect: {redacted(server.ui_url)}{took}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        pools = Pools(root, graph, params, stack.enter_context(kept(root, "tools", TOOLS))) if on_workers else None
        stages = Stages(root, graph, steps, params, profile, jobs, pools)
        stack.enter_context(temporary_settings(server.settings()))
        stack.enter_context(_plain_log())
        _end_services(patience=0)
        try:
            _flow_of(stages, profile)(profile, [step.stage.name for step in steps], dict(params), return_state=True)
        except TerminationSignal:
            raise KeyboardInterrupt from None
        except (httpx.HTTPError, OSError) as error:
            if not stages.finished:
                raise
            print(f"the Prefect server was lost ({type(error).__name__}); the stages are done without it", file=sys.stderr)
        finally:
            stages.children.stop()
            _end_services(patience=DRAIN)
    if stages.interrupted:
        raise KeyboardInterrupt
    return stages.result()


def threads_of(stage: Stage, params: Mapping[str, Any]) -> int:
    """Return the most threads that a command of a stage sets, or, where it sets none, that its sections name; 0 if none does."""
    sections = [params.get(key.split(".")[0]) for key in stage.param_keys]
    named = max((int(body.get("threads", 0)) for body in sections if isinstance(body, Mapping)), default=0)
    commands = [dict(one.split("=", 1) for one in given) for given in (stage.sets, *(sets for _, sets in stage.further))]
    return max(int(given.get("threads", named)) for given in commands)


class Slots:
    """Room for stages side by side: any number of light ones up to `jobs`, heavy ones as far as their threads fit the cores."""

    def __init__(self, cores: int, jobs: int) -> None:
        """Have `cores` threads and `jobs` places to give."""
        self._cores, self._threads, self._jobs = cores, cores, jobs
        self._freed = threading.Condition()

    @contextmanager
    def taken(self, threads: int) -> Iterator[None]:
        """Hold a place and `threads` threads, waiting until they are free; a stage that wants more than there are gets all."""
        threads = min(threads, self._cores)
        with self._freed:
            self._freed.wait_for(lambda: self._jobs > 0 and self._threads >= threads)
            self._jobs -= 1
            self._threads -= threads
        try:
            yield
        finally:
            with self._freed:
                self._jobs += 1
                self._threads += threads
                self._freed.notify_all()


class Stages:
    """The stages of one run: how each becomes a task, and how it ended."""

    def __init__(
        self,
        root: Path,
        graph: Graph,
        steps: Sequence[Step],
        params: Mapping[str, Any],
        profile: str | None = None,
        jobs: int | None = None,
        pools: Pools | None = None,
    ) -> None:
        """Take a plan; nothing is started yet. With `pools`, stages run on workers."""
        cores = len(os.sched_getaffinity(0))
        self.root, self.graph, self.steps, self.params = root, graph, steps, params
        self.profile = profile or "default"
        self.slots = Slots(cores, jobs or LIGHT_PER_CORE * cores)
        self.page = Page()
        self.watch = Watch(root, monitoring.read(root), self.profile)
        self.pools = pools
        self.children = Children()
        self.remote = remote_of(root)
        self.host: Mapping[str, str] = {}
        """What to add to a stage's environment so that it finds the warm process."""
        self.show_unchanged = sum(not step.stale for step in steps) <= SHOWN
        self.ahead = max(AHEAD, jobs or 0)
        """Most tasks that are begun and not ended: each is a thread, most of them waiting for their turn."""
        self.outcomes: dict[str, Outcome] = {}
        self.blocked: dict[str, str] = {}
        """For a stage that was not run the one further up that did not finish."""
        self.finished = False
        self.interrupted = False

    def run(self) -> State[Any]:
        """Submit every stage as a task of the current flow run, wait for them, and return the state of the whole.

        Every task of a stopped or failed run ends in a state of type Failed, under its own name: Prefect lets what comes after
        it look at nothing else, and would leave it pending for ever.
        """
        client, run_id = get_client(sync_client=True), cast(Any, flow_run.id)
        self.page.show("the run's tags", lambda: client.update_flow_run(run_id, tags=self._tags()))
        here = 0 if self.pools else sum(step.stale for step in self.steps)
        with warm(self.root, here) as self.host:
            self._all()
        self.page.summary(self.result())
        self.page.links(lambda: of_run(self.root, self.graph.studies, served_at(self.root), self.remote))
        return self._state()

    def _tags(self) -> list[str]:
        """Return what the page can find the run by: profile, studies, commit, and what Prefect has put there."""
        commit = (history.commit(self.root) or "no commit")[:8]
        return list(dict.fromkeys([self.profile, *self.graph.studies, commit, *flow_run.tags]))

    def _all(self) -> None:
        """Submit every stage when its turn comes and wait until the last has ended, also when the run is stopped."""
        futures = dict[str, PrefectWrappedFuture[Any, Any]]()
        steps = {step.stage.name: step for step in self.steps}
        ready, running, looked = (
            Ready(list(steps), self.graph.needs, self._likely()),
            dict[concurrent.futures.Future[Any], str](),
            time.monotonic(),
        )
        try:
            while True:
                while len(running) < self.ahead and (name := ready.take()) is not None:
                    if self._settled(steps[name]):
                        ready.ended(name)
                        continue
                    futures[name] = self._submit(steps[name], futures)
                    running[futures[name].wrapped_future] = name
                if not running:
                    break
                for future in concurrent.futures.wait(running, LOOK, concurrent.futures.FIRST_COMPLETED).done:
                    ready.ended(running.pop(future))
                if time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    self._look()
        except KeyboardInterrupt:
            self.interrupted = True
            get_run_logger().warning("Stopping: the stages write their checkpoints")
        finally:
            if running:
                self.children.stop()
            concurrent.futures.wait(running)
            self.finished = True

    def _likely(self) -> dict[str, float]:
        """Return how many seconds each stage will take, as far as can be told: what it took last, else what is usual here."""
        known = [step.last_seconds for step in self.steps if step.last_seconds is not None]
        usual = statistics.median(known) if known else 1.0
        asked = [step for step in self.steps if step.stale and not step.restored]
        return {step.stage.name: usual if step.last_seconds is None else step.last_seconds for step in asked}

    def _settled(self, step: Step) -> bool:
        """Be done with an unchanged stage without a task, where there are too many of them to be shown one by one."""
        name = step.stage.name
        if step.stale or self.show_unchanged:
            return False
        if blocker := self._blocker(name):
            self.blocked[name] = blocker
        else:
            self.outcomes[name] = Outcome("cached", detail="unchanged")
        return True

    def _submit(self, step: Step, futures: Mapping[str, PrefectWrappedFuture[Any, Any]]) -> PrefectWrappedFuture[Any, Any]:
        """Start the task of a stage; what it needs has ended, and is named for the edges on the page."""
        needs = [allow_failure(futures[name]) for name in self.graph.needs[step.stage.name] if name in futures]
        return cast(PrefectWrappedFuture[Any, Any], self._task(step).submit(return_state=False, wait_for=needs))

    def result(self) -> RunResult:
        """Return how every stage ended, in the order of the plan."""
        for step in self.steps:
            if step.stage.name not in self.outcomes and (blocker := self._blocker(step.stage.name)):
                self.blocked[step.stage.name] = blocker
        return RunResult(tuple(self._row(step) for step in self.steps))

    def _task(self, step: Step) -> Task[[], State[Any]]:
        name = step.stage.name
        shown = Shown(self.page, self.root, step.stage, self.remote)
        return Task(
            lambda: self._stage(step, shown),
            name=name,
            task_run_name=name,
            retries=RETRIES,
            retry_delay_seconds=1,
            retry_condition_fn=lambda *_: name in self.outcomes and self.outcomes[name].ending == "preempted",
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def _stage(self, step: Step, shown: Shown) -> State[Any]:
        """Be the task of one stage: run it if it is stale and nothing it needs has failed."""
        name = step.stage.name
        if blocker := self._blocker(name):
            self.blocked[name] = blocker
            return Failed(name="Blocked", message=f"not run: {blocker} did not finish")
        if not step.stale:
            self.outcomes[name] = Outcome("cached", detail="unchanged")
            return Completed(name="Cached", message="unchanged")
        logger = get_run_logger()
        if lost := sound.mend_inputs(self.root, step.stage.deps, self.graph.needs[name]):
            again = f"run again, and {lost[0].stage} makes it anew"
            self.outcomes[name] = Outcome("failed", detail=f"{lost[0]}, and no copy of it is sound; {again}")
            return Failed(message=self.outcomes[name].detail)
        section = self.params.get(step.stage.section or "") or {}
        if self.pools:
            with self.watch.pace(name, section):
                outcome = self.pools.attempt(step.stage, self.children, force=step.forced, say=logger.info)
        else:
            outcome = self._here(step, shown, logger.info)
        self.outcomes[name] = outcome
        if outcome.ran:
            history.record(self.root, name, outcome.seconds, outcome.code, section)
        if outcome.ending == "cached":
            return Completed(name="Cached", message=outcome.detail)
        if outcome.ending == "completed":
            shown.outs()
            for fault in self.watch.scores(name, scores_of(self.root, step.stage)):
                logger.warning(fault)
            return Completed(message=f"in {outcome.seconds:.1f} s")
        if outcome.ending == "stopped":
            return Failed(name="Stopped", message=STOPPED if outcome.ran else outcome.detail)
        return Failed(message=outcome.detail)

    def _here(self, step: Step, shown: Shown, say: Callable[[str], None]) -> Outcome:
        """Run a stage on this machine, once there is room for its threads and the GPUs that it trains on are free."""
        stage, section = step.stage, self.params.get(step.stage.section or "") or {}
        gpus = int(stage.meta.get("gpus", len(devices()))) if stage.meta.get("worker") == "gpu" else 0
        try:
            with self.slots.taken(threads_of(stage, self.params)), lent(gpus, lambda: self.children.stopping, say) as pinned:
                env = {**self.host, **pinned}
                with self.watch.pace(stage.name, section):
                    return attempt(self.root, stage, self.children, force=step.forced, say=say, watch=shown.progress, env=env)
        except UserError as error:
            return Outcome("failed", code=REFUSED, detail=str(error))
        except Stopped as stopped:
            return Outcome("stopped", detail=str(stopped))

    def _blocker(self, name: str) -> str | None:
        """Return the stage further up that failed or was stopped, or None when `name` can run; what it needs has been asked."""
        for needed in self.graph.needs[name]:
            ended = self.outcomes.get(needed)
            blocker = self.blocked.get(needed) if ended is None else needed if ended.ending not in FINE else None
            if blocker is not None:
                return blocker
        return None

    def _row(self, step: Step) -> StageResult:
        name = step.stage.name
        ended = self.outcomes.get(name)
        if ended is None:
            return StageResult(name, "blocked", detail=f"not run: {self._blocker(name) or 'the run'} did not finish")
        if ended.ending == "cached" or ended.ending == "completed":
            return StageResult(name, ended.ending, ended.seconds, ended.detail, scores_of(self.root, step.stage))
        if ended.ending == "stopped":
            return StageResult(name, "failed" if ended.ran else "blocked", ended.seconds, STOPPED if ended.ran else ended.detail)
        return StageResult(name, "failed", ended.seconds, ended.detail)

    def _state(self) -> State[Any]:
        rows = self.result().rows
        if self.children.stopping:
            return Cancelled(message="stopped; `temper run` goes on from there")
        if failed := [row for row in rows if row.state == "failed"]:
            return Failed(message="; ".join(f"{row.stage}: {row.detail}" for row in failed))
        ran = sum(row.state == "completed" for row in rows)
        return Completed(message=f"{ran} {'stage' if ran == 1 else 'stages'} run, {len(rows) - ran} unchanged")

    def _look(self) -> None:
        """See whether the run was cancelled on the page, which only marks it there, and stop it then."""
        client, run_id = get_client(sync_client=True), cast(Any, flow_run.id)
        run = self.page.show("the run's state", lambda: client.read_flow_run(run_id))
        if run is not None and run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled()):
            self.children.stop()


def _flow_of(work: Stages, profile: str | None) -> Flow[..., State[Any]]:
    """Return a flow that runs `work`; its parameters are only for the page to show."""

    @flow(
        name="temper",
        flow_run_name=run_name(work.root, profile, work.graph.studies),
        persist_result=False,
        validate_parameters=False,
    )
    def temper(profile: str | None, stages: list[str], params: dict[str, Any]) -> State[Any]:
        return work.run()

    return temper


def run_name(root: Path, profile: str | None, run_studies: Sequence[str]) -> str:
    """Return `PROFILE COMMIT`, a `+` behind the commit when tracked files were changed, and the studies, if there are any."""
    commit = history.commit(root) or "no commit"
    return " ".join([profile or "default", commit[:8] + ("+" if commit.endswith("+") else ""), *run_studies])


@contextmanager
def _plain_log() -> Iterator[None]:
    """Have Prefect's log name the stage and say the line, no more; a stage's lines are many."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    before = [handler.formatter for handler in handlers]
    for handler in handlers:
        handler.setFormatter(
            PrefectFormatter(
                format="%(asctime)s | %(message)s",
                datefmt="%H:%M:%S",
                flow_run_fmt="%(asctime)s | %(message)s",
                task_run_fmt="%(asctime)s | %(task_run_name)s | %(message)s",
            )
        )
    try:
        yield
    finally:
        for handler, formatter in zip(handlers, before, strict=True):
            handler.setFormatter(formatter)


def _end_services(patience: float) -> None:
    """End Prefect's services, which tell a server of logs and states; after `patience` seconds with what they still hold.

    Prefect itself would go on trying at the exit of this process, minutes for every line, and would give a run those of an
    earlier one, which speak to that run's server; there is no setting for either.
    """
    services: list[Any] = list(cast(Any, EventsWorker)._instances.values())  # one register for all of them
    EventsWorker.drain_all(timeout=patience)
    for service in services:
        service._queue.queue.clear()
        service._queue.put_nowait(None)
