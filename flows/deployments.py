"""The deployments, schedules and triggers of infra/prefect.yaml on a server: in line with the file, and no others left."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Cancelled

from flows.server import Server, ServerError
from tasks.runtime.params import UserError, read_yaml

PLACE = Path("infra/prefect.yaml")
POOL = "temper"


def keep(root: Path, server: Server, client: SyncPrefectClient) -> None:
    """Make the deployments of the pool those of the file. Raises UserError for a wrong file, ServerError if Prefect refuses.

    A scheduled run whose time passed while nobody served is not made up for: it is cancelled, and says so.
    """
    wanted = names(root)
    for found in _deployed(client):
        _cancel_missed(client, found)
        if found.name not in wanted:
            client.delete_resource_owned_automations(f"prefect.deployment.{found.id}")
            client.delete_deployment(found.id)
    _deploy(root, server)


def names(root: Path) -> list[str]:
    """Return the names of the file's deployments. Raises UserError when one has no name, a name twice, or another pool."""
    body = read_yaml(root / PLACE)
    found: list[str] = []
    for number, entry in enumerate(body.get("deployments") or [], start=1):
        name = entry.get("name")
        if not name or name in found:
            raise UserError(f"{PLACE}: deployment {number}: needs a name of its own, not {name!r}")
        if (entry.get("work_pool") or {}).get("name") != POOL:
            raise UserError(f"{PLACE}: deployment {name}: its work_pool must be {{name: {POOL}}}, which `temper serve` works off")
        found.append(name)
    if not found:
        raise UserError(f"{PLACE}: has no deployments; `git checkout {PLACE}` brings them back")
    return found


def _deployed(client: SyncPrefectClient) -> list[DeploymentResponse]:
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    return client.read_deployments(work_pool_filter=pool, limit=200)


def _cancel_missed(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Cancel the runs of a deployment that were to start while nobody served: a week of nights would run one after another."""
    missed = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=cast(Any, datetime.now(UTC))),
        ),
        limit=200,
    )
    for run in missed:
        if run.auto_scheduled:
            client.set_flow_run_state(run.id, Cancelled(message="missed: nobody served at its time"), force=True)


def _deploy(root: Path, server: Server) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PLACE)]
    environment = {**os.environ, **server.environment(), "TEMPER_ROOT": str(root.resolve())}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{PLACE}: not deployed: {(done.stdout + done.stderr).strip()}")
