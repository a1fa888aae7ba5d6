"""GPUs as Prefect's page shows them: a strict concurrency limit of one for each, taken by the stage that holds the GPU.

The kernel's lease (flows.workers.gpus) is the truth, and the limit the view of it, which also keeps apart what does not share a
kernel's leases: containers on one machine, users, another TMPDIR. Whoever holds the lease knows that no process here has the GPU;
so the slot that a killed holder has left behind is his to give back, and its id lies beside the lease for that. A server that is
away costs the view, not the work. Whoever sets a limit to 0 on the page takes that GPU out of service.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run, task_run
from prefect.settings import get_current_settings

SECONDS, AGAIN = 60.0, 20.0
"""For how long a slot is taken, the least that Prefect allows, and after how long again; else the server frees it."""
LOOK = 2.0
"""Seconds between two looks at a slot that somebody else has."""
TAKING = "taking"
"""Stands beside the lease while a slot is being asked for: its id is not known yet."""

Stopping = Callable[[], bool]
Say = Callable[[str], None]


@contextlib.contextmanager
def occupied(leases: Mapping[str, Path], stopping: Stopping, say: Say) -> Iterator[bool]:
    """Take the slot of each GPU of `leases`, whose folders of leases the caller holds, for the time of the block.

    Waits for a slot that somebody without our leases has; yields False when `stopping` meanwhile. Without a server there is
    nothing to take.
    """
    if not get_current_settings().api.url:
        yield True
        return
    with contextlib.ExitStack() as stack:
        for device, folder in leases.items():
            slot = Slot(limit_of(device), folder / "slot", say)
            try:
                taken = slot.take(stopping)
            except httpx.HTTPError as error:
                say(f"{slot.limit} is not shown on Prefect's page ({type(error).__name__}); the GPU is held all the same")
                continue
            if not taken:
                yield False
                return
            stack.callback(slot.release)
        yield True


class Slot:
    """The slot of one GPU."""

    def __init__(self, limit: str, place: Path, say: Say) -> None:
        """Name the limit and the file beside the lease; nothing is taken yet."""
        self.limit = limit
        self._place, self._say = place, say
        self._id: UUID | None = None
        self._over = threading.Event()

    def take(self, stopping: Stopping) -> bool:
        """Take the slot, the one of a killed holder first given back; False when `stopping` before it is free."""
        with get_client(sync_client=True) as client:
            if self._place.is_file():
                self._give_back(client)
                self._say(f"{self.limit}: its last holder was killed; what it had is given back")
            self._place.write_text(TAKING, encoding="utf-8")
            told = False
            while (got := self._ask(client)) is None:
                if stopping():
                    self._place.unlink()
                    return False
                if not told:
                    self._say(f"waiting for {self.limit}, which Prefect says is taken elsewhere or out of service")
                told = True
                time.sleep(LOOK)
            as_of = client.read_global_concurrency_limit_by_name(self.limit).updated
        self._id = got
        self._place.write_text(f"{got} {as_of}", encoding="utf-8")
        threading.Thread(target=contextvars.copy_context().run, args=[self._keep], daemon=True).start()
        return True

    def release(self) -> None:
        """Give the slot back; one that cannot be is given back by the next holder, or freed by the server."""
        self._over.set()
        try:
            with get_client(sync_client=True) as client:
                self._give_back(client)
        except httpx.HTTPError as error:
            self._say(f"{self.limit}: not given back ({type(error).__name__}); whoever has the GPU next does it")

    def _give_back(self, client: SyncPrefectClient) -> None:
        """Give back the slot that stands beside the lease, and none that somebody else has taken since.

        A server that has forgotten its id still counts it: the limit is then as it was when the slot was taken.
        """
        taken, _, as_of = self._place.read_text(encoding="utf-8").partition(" ")
        with contextlib.suppress(ValueError, ObjectNotFound):  # not an id: the server frees the slot; no limit: another server's
            client.release_concurrency_slots_with_lease(UUID(taken))
            limit = client.read_global_concurrency_limit_by_name(self.limit)
            if limit.active_slots and str(limit.updated) == as_of:
                client.update_global_concurrency_limit(self.limit, GlobalConcurrencyLimitUpdate(active_slots=0))
        self._place.unlink()

    def _ask(self, client: SyncPrefectClient) -> UUID | None:
        """Return the id of the slot, None while somebody else has it. Without a limit there is no slot: it is made."""
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=self.limit, limit=1))
        try:
            answer = client.increment_concurrency_slots_with_lease([self.limit], 1, "concurrency", SECONDS, _holder())
        except httpx.HTTPStatusError as refused:
            if refused.response.status_code in (
                httpx.codes.LOCKED,
                httpx.codes.UNPROCESSABLE_ENTITY,
            ):  # the latter for a limit of 0
                return None
            raise
        said: dict[str, Any] = answer.json()
        return UUID(said["lease_id"]) if said["limits"] else None

    def _keep(self) -> None:
        """Take the slot again before its time is over, until it is released; failing at that costs only the view."""
        assert self._id is not None
        told = False
        while not self._over.wait(AGAIN):
            try:
                with get_client(sync_client=True) as client:
                    client.renew_concurrency_lease(self._id, SECONDS)
            except httpx.HTTPError as error:
                if not told:
                    self._say(f"{self.limit}: Prefect has lost the slot ({type(error).__name__}); the GPU is held all the same")
                told = True


def limit_of(device: str) -> str:
    """Return the name of a GPU's limit: by its UUID, which is the same in every container, else by machine and number."""
    known = device if device.startswith(("GPU-", "MIG-")) else _uuids().get(device)
    return re.sub(r"[^\w.-]", "-", f"temper-{known}" if known else f"temper-GPU-{socket.gethostname()}-{device}")


@functools.cache
def _uuids() -> dict[str, str]:
    """Return the UUID of each GPU by its number, as the driver lists them."""
    if not (tool := shutil.which("nvidia-smi")):
        return {}
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return dict(re.findall(r"^GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", listed, flags=re.M))


def _holder() -> ConcurrencyLeaseHolder | None:
    """Return who asks, for the page: the task, else the flow run that this is called from."""
    kinds: tuple[tuple[Literal["task_run", "flow_run"], Any], ...] = (("task_run", task_run.id), ("flow_run", flow_run.id))
    return next((ConcurrencyLeaseHolder(type=kind, id=UUID(str(found))) for kind, found in kinds if found), None)
