"""One run on a worker as the coordinator follows it: until it has told how it ended, is lost, or the whole run is stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Crashed

from flows.stage import Children, Outcome
from flows.workers.pulse import BEATS, LABEL, OUTAGE, Pulse, away, patience
from flows.workers.remote import ENDING

SOONEST, LATEST, SHARE = 0.15, 2.0, 0.03
"""Seconds between two looks: this share of the time since the run was sent, within these bounds."""
WORKERS = 5.0
"""Seconds between two looks at the workers of a pool while a run waits there."""
NOBODY = 3600.0
"""Seconds without a live worker after which a stage is given up."""
PLACED = 1800.0
"""Seconds that a cluster may take to find a place for a run that its worker has taken."""
STOPPING = 60.0
"""Seconds that a run has to stop on its worker before the coordinator leaves it there."""


@dataclass(frozen=True)
class Told:
    """What came of a run: how the stage ended, and what dvc.lock is to say of it, by file and name, when it is done."""

    outcome: Outcome
    lock: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Watch:
    """Looks at one run again and again."""

    def __init__(
        self, client: SyncPrefectClient, run: UUID, kind: str, placed_by: str, children: Children, say: Callable[[str], None]
    ) -> None:
        """Take a run that was sent to the pool of a kind, of Prefect's type `placed_by`."""
        self._client, self._run, self._kind, self._children, self._say = client, run, kind, children, say
        self._patience = patience()
        self._placing = self._patience if placed_by == "process" else PLACED
        self._phase, self._pulse, self._workers = "", Pulse(self._patience), Pulse(self._patience)
        self._sent = self._looked_for_workers = time.monotonic()
        self._asked: float | None = None
        """When the run was asked to stop."""
        self._warned = False

    def told(self) -> Told:
        """Wait for the end of the run. Raises httpx.HTTPError when the server stays away."""
        answered = time.monotonic()
        while True:
            try:
                if (found := self._look()) is not None:
                    return found
                answered = time.monotonic()
            except httpx.HTTPError as error:
                if not away(error) or time.monotonic() - answered > OUTAGE or self._children.stopping:
                    raise
            time.sleep(min(max(SHARE * (time.monotonic() - self._sent), SOONEST), LATEST))

    def _look(self) -> Told | None:
        run = self._client.read_flow_run(self._run)
        state = run.state
        assert state is not None
        if state.is_final():
            return self._ended(run)
        if self._children.stopping:
            return self._stop(run)
        phase = "waits" if state.is_scheduled() else "starts" if state.is_pending() else "runs"
        if phase != self._phase:
            self._phase, self._pulse = phase, Pulse(self._patience)
        if phase == "waits":
            return self._wait_for_worker()
        silent = self._pulse.see(run.labels.get(LABEL))
        return self._lost(silent) if silent > (self._placing if phase == "starts" else self._patience) else None

    def _ended(self, run: FlowRun) -> Told:
        """Return what the run told; one that told nothing has crashed with its process, or was cancelled on the page."""
        if told := ending(self._client, self._run):
            return told
        state = run.state
        assert state is not None
        if state.is_cancelled() or self._asked is not None:
            return Told(Outcome("stopped", detail="stopped on its worker"))
        return Told(Outcome("preempted" if state.is_crashed() else "failed", detail=state.message or str(state.name)))

    def _stop(self, run: FlowRun) -> Told | None:
        """Ask the run to stop; leave it behind when it does not."""
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        if run.state is not None and not run.state.is_cancelling():
            self._client.set_flow_run_state(self._run, Cancelling(message="the coordinator was stopped"))
        left = now - self._asked > STOPPING
        return Told(Outcome("stopped", detail="asked to stop, and has not answered yet")) if left else None

    def _lost(self, silent: float) -> Told:
        """Count the run as lost, so that another may be sent; what it has told before is taken."""
        if told := ending(self._client, self._run):
            return told
        detail = f"lost: no sign of life from its worker for {silent:.0f} s"
        self._client.set_flow_run_state(self._run, Crashed(message=detail), force=True)
        return Told(Outcome("preempted", detail=detail))

    def _wait_for_worker(self) -> Told | None:
        """Say it when no worker of the kind is alive, and give up after an hour; a live one may be busy for any time."""
        from flows.workers.pool import pool

        if time.monotonic() - self._looked_for_workers < min(WORKERS, self._patience / BEATS):
            return None
        self._looked_for_workers = time.monotonic()
        workers = self._client.read_workers_for_work_pool(pool(self._kind))
        silent = self._workers.see(max((str(one.last_heartbeat_time) for one in workers), default=""))
        if silent > NOBODY:
            self._client.set_flow_run_state(self._run, Cancelled(message="no worker came"), force=True)
            return Told(Outcome("failed", detail=self._nobody(silent)))
        if silent > self._patience and not self._warned:
            self._warned = True
            self._say(self._nobody(silent))
        return None

    def _nobody(self, silent: float) -> str:
        address = str(self._client.api_url).rstrip("/")
        return (
            f"no live worker of kind {self._kind} for {silent:.0f} s; start one, in a clone of this repository: "
            f"PREFECT_API_URL={address} temper worker {self._kind}"
        )


def ending(client: SyncPrefectClient, run: UUID) -> Told | None:
    """Return what a run on a worker has told of its end; None when it told nothing."""
    about = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[ENDING]))
    found = client.read_artifacts(artifact_filter=about)
    if not found:
        return None
    said: dict[str, Any] = json.loads(str(found[-1].data).removeprefix("```json\n").removesuffix("\n```"))
    outcome = Outcome(said["ending"], said["seconds"], said["code"], said["detail"], ran=said["ending"] != "cached")
    return Told(outcome, said.get("lock", {}))
