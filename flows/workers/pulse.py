"""Signs of life of a stage on a worker, and how the one who waits for it tells that they have ended.

A run of a stage counts upwards in a label of its flow run (`Beat`); the coordinator sees whether the count still moves (`Pulse`).
No clock is compared with another, and time in which the coordinator itself could not look does not count. The same look tells the
run whether it is still wanted: one that was counted as lost is Crashed on the server, and stops before it tells a result. The id
of the flow run is the fencing token: the coordinator records what the run that it waits for has told, and nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import temporary_settings

PATIENCE = "TEMPER_LOST_AFTER"
"""Names the seconds without a sign of life after which a run is lost; 60 when not set."""
BEATS = 6
"""Signs of life in that time."""
LABEL = "temper.beat"
OUTAGE = 900.0
"""Seconds that a server may be away before it is given up."""

T = TypeVar("T")


def patience() -> float:
    """Return the seconds without a sign of life after which a run is lost."""
    return float(os.environ.get(PATIENCE, "60"))


class Pulse:
    """For how long a value has not changed, as far as one has looked."""

    def __init__(self, patience: float) -> None:
        """Expect the first value; `patience` is what the silence will be compared with.

        One look adds no more than the time between two beats: who could not look for longer knows nothing of the others.
        """
        self._value: object = self
        self._most = patience / BEATS
        self._looked = time.monotonic()
        self.silent = 0.0
        """Seconds."""

    def see(self, value: object) -> float:
        """Take what the value is now and return for how many seconds it has been the same."""
        now = time.monotonic()
        self.silent = self.silent + min(now - self._looked, self._most) if value == self._value else 0.0
        self._value, self._looked = value, now
        return self.silent


class Beat:
    """The signs of life of one run, from a thread of its own, from `__enter__` to `__exit__`."""

    def __init__(self, run: UUID, seconds: float, stop: Callable[[], None]) -> None:
        """Beat for `run` so often that `seconds` of silence mean something; `stop` is called once when the run is to end."""
        self._run, self._pause, self._stop = run, seconds / BEATS, stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.ended: str | None = None
        """Why the run was to end: the name of the state that it was put in."""

    def __enter__(self) -> Beat:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Fall silent."""
        self._over.set()
        self._thread.join(timeout=5)

    def _beat(self) -> None:
        """Count, and look whether the run is still wanted; a server that does not answer is asked again at the next beat."""
        count = 0
        with temporary_settings({"client.max_retries": 0}), get_client(sync_client=True) as client:
            while self.ended is None:
                count += 1
                with suppress(httpx.HTTPError):
                    client.update_flow_run_labels(self._run, {LABEL: count})
                    self.ended = dismissed(client, self._run)
                if self._over.wait(min(self._pause, 5.0)):
                    return
        self._stop()


def dismissed(client: SyncPrefectClient, run: UUID) -> str | None:
    """Return the state that says that a run at work is not wanted any more, None while it is."""
    state = client.read_flow_run(run).state
    return state.name if state is not None and (state.is_final() or state.is_cancelling()) else None


def patiently(call: Callable[[], T], stopping: Callable[[], bool] = lambda: False, outage: float = OUTAGE) -> T:
    """Return what `call` returns, asking again while the server is away; its error after `outage` seconds, or when stopping."""
    deadline = time.monotonic() + outage
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if not away(error) or stopping() or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def away(error: Any) -> bool:
    """Tell whether an error says that the server is not there now, not that it refuses."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)
