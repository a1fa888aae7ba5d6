"""`temper worker KIND`: takes stages from the Prefect work pool of its kind and runs each in a process of its own.

Prefect's process worker starts two Pythons that import Prefect for every run, looks for work at a fixed pace, and gives up with
its stages when the server is away for some minutes. This one speaks the same protocol to the same pool through Prefect's client:
it forks runs from a process that has imported Prefect and DVC (flows.host), looks sooner while busy, and waits for the server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings
from prefect.states import Crashed, Pending

from flows import child, host
from flows.server import start_in_background
from flows.workers.gpus import devices
from flows.workers.pool import make_pool, pool
from flows.workers.pulse import away
from flows.workers.remote import CHECKOUT, KIND, STAGES, TOOLS

HEARTBEAT = 15.0
"""Seconds between two signs of life of the worker itself, which the pool's page shows."""
SOONEST, LATEST = 0.2, 2.0
"""Seconds between two looks for work: right after a stage has ended, and when there was nothing for long."""
EASING = 0.05
"""Of the time without work that may pass unnoticed."""
GRACE = child.GRACE + 10.0
"""Seconds a stopped run has: its stage writes its checkpoint in them."""


def work(root: Path, kind: str, limit: int | None = None, cold: bool = False) -> None:
    """Be a worker for the stages of a kind until Ctrl-C, `limit` at once: one for each GPU of kind `gpu`, else one.

    `cold` keeps no process that has imported torch. Raises ServerError when the server is not there.
    """
    server = start_in_background(root)
    server.wait()
    limit = limit or (max(1, len(devices())) if kind != KIND else 1)
    environment = {**server.environment(), CHECKOUT: str(root.resolve())}
    with contextlib.ExitStack() as stack:
        environment[TOOLS] = stack.enter_context(host.kept(root, "tools", host.TOOLS, environment))
        if not cold:
            environment[STAGES] = stack.enter_context(host.kept(root, "host"))
        stack.enter_context(temporary_settings({**server.settings(), "client.max_retries": 0}))
        client = stack.enter_context(get_client(sync_client=True))
        worker = Worker(root, client, kind, limit, environment)
        try:
            worker.serve()
        except KeyboardInterrupt:
            print("stopping", flush=True)
        finally:
            worker.stop()


class Worker:
    """The runs that a worker has taken, and its talk with the server."""

    def __init__(self, root: Path, client: SyncPrefectClient, kind: str, limit: int, environment: Mapping[str, str]) -> None:
        """Take at most `limit` runs of `kind` at once; `environment` is added to theirs."""
        self.name = f"{socket.gethostname()} {os.getpid()}"
        self._root, self._client, self._kind, self._pool, self._limit = root, client, kind, pool(kind), limit
        self._environment = environment
        self._running: dict[UUID, host.Guest | subprocess.Popen[bytes]] = {}
        self._busy = time.monotonic()
        self._beaten = -HEARTBEAT
        self._away = False

    def serve(self) -> None:
        """Take and watch runs until interrupted; a server that is away is waited for, what runs goes on."""
        while True:
            try:
                self._turn()
                self._say_away(False)
            except ObjectNotFound:
                self._beaten = -HEARTBEAT  # the pool was deleted, or the server has a new database: made again
            except httpx.HTTPError as error:
                if not away(error):
                    raise
                self._say_away(True)
            quiet = time.monotonic() - self._busy
            time.sleep(SOONEST if self._running and len(self._running) >= self._limit else self._pause(quiet))

    def stop(self) -> None:
        """Have every run end, its stage with a checkpoint; kill what has not ended in time."""
        for run in self._running.values():
            run.terminate()
        deadline = time.monotonic() + GRACE
        while any(run.poll() is None for run in self._running.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for run in self._running.values():
            run.kill() if isinstance(run, host.Guest) else child.kill(run)
        with contextlib.suppress(httpx.HTTPError):
            self._reap()

    def _turn(self) -> None:
        if time.monotonic() - self._beaten >= HEARTBEAT:
            if self._beaten < 0:
                make_pool(self._client, self._kind)
                print(f"{self.name}: takes stages of {self._pool}, {self._limit} at once", flush=True)
            self._client.send_worker_heartbeat(self._pool, self.name, HEARTBEAT)
            self._beaten = time.monotonic()
        self._reap()
        if len(self._running) < self._limit:
            self._take()

    def _take(self) -> None:
        """Take what the pool has, up to the limit: of two workers that ask for the same run the server lets one have it."""
        for offered in self._client.get_scheduled_flow_runs_for_work_pool(self._pool, scheduled_before=datetime.now(UTC)):
            run = offered.flow_run
            if len(self._running) >= self._limit:
                return
            taken: OrchestrationResult[Any] = self._client.set_flow_run_state(run.id, Pending(message=f"taken by {self.name}"))
            if taken.status is SetStateStatus.ACCEPT:
                self._running[run.id] = self._start(run.id)
                print(f"{run.name}: started ({run.id})", flush=True)
                labels: dict[str, bool | int | float | str] = {"prefect.worker.name": self.name, "prefect.worker.type": "process"}
                self._client.update_flow_run_labels(run.id, labels)

    def _start(self, run: UUID) -> host.Guest | subprocess.Popen[bytes]:
        """Start the process of a run, forked where that is ready."""
        words, where, output = ("flows.workers.remote", str(run)), self._root.resolve(), sys.stdout.fileno()
        guest = host.fork(self._environment[TOOLS], *words, cwd=where, output=output, env=self._environment)
        return guest or child.start(*words, cwd=where, output=output, env=self._environment)

    def _reap(self) -> None:
        """Let go of the runs that have ended; one whose process ended without telling has crashed."""
        for run, process in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            self._busy = time.monotonic()
            with contextlib.suppress(ObjectNotFound):
                state = self._client.read_flow_run(run).state
                if state is None or not state.is_final():
                    message = f"the process of the run on {self.name} ended with {code}"
                    self._client.set_flow_run_state(run, Crashed(message=message), force=True)
            print(f"{run}: ended with {code}", flush=True)
            del self._running[run]

    def _pause(self, quiet: float) -> float:
        """Return how long to wait after `quiet` seconds without work."""
        return min(max(EASING * quiet, SOONEST), LATEST)

    def _say_away(self, now: bool) -> None:
        if now != self._away:
            print("the server does not answer; waiting for it" if now else "the server answers again", flush=True)
        self._away = now
