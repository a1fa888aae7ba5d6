"""Stages on other machines: each is sent to the Prefect work pool of its kind, and what dvc.lock says of it comes back.

A stage names its kind in dvc.yaml, `meta: {worker: gpu}`; without one it is `cpu`. Pool `temper-KIND` is what the operator has
made of it (Kubernetes, say), or a process pool made here. The coordinator keeps the graph, dvc.lock and the report; the data
goes through the DVC remote. Outs and dvc.lock are those of a run on this machine.

A request has a name of its own, made of all it says, so a coordinator that died finds on the server what it has sent: what has
been done since is taken, what still runs is waited for.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.planning import history
from flows.planning.graph import Graph, Stage
from flows.planning.recorded import entries, record
from flows.redact import redacted
from flows.stage import Children, Outcome
from flows.workers.follow import Told, Watch, ending
from flows.workers.pulse import patience, patiently
from flows.workers.remote import DONE, KIND, TransferError, transfer, wanted
from flows.workers.remote import stage as stage_flow
from tasks.runtime.params import PARAMS_FILE, UserError

ENTRY = "flows.workers.remote.stage"
TAKEN = "temper.taken"
"""Label of a run whose result a coordinator has recorded."""
SENDINGS = 200
"""Of one and the same request, that are told apart."""


class Pools:
    """The work pools of one run, as the coordinator sees them."""

    def __init__(self, root: Path, graph: Graph, params: Mapping[str, Any], tools: str | None = None) -> None:
        """Take a checkout whose commit the workers can have, and the warm process (flows.host) for its transfers, if any.

        Raises UserError for changes without a commit, or no DVC remote.
        """
        self._root, self._graph, self._params, self._tools = root, graph, dict(params), tools
        self._commit, self._remote = _commit(root), _remote(root)
        self._deployments: dict[str, UUID] = {}
        self._types: dict[str, str] = {}
        self._pushed: set[str] = set()
        self._turn = threading.Lock()

    def attempt(
        self,
        stage: Stage,
        children: Children,
        *,
        force: bool,
        say: Callable[[str], None],
        client: SyncPrefectClient | None = None,
    ) -> Outcome:
        """Have a worker of its kind bring `stage` up to date, once; its outs and its entry in dvc.lock are here afterwards."""
        try:
            return self._attempt(stage, children, force, say, client or get_client(sync_client=True))
        except TransferError as error:
            return Outcome("preempted", detail=str(error))

    def _attempt(
        self, stage: Stage, children: Children, force: bool, say: Callable[[str], None], client: SyncPrefectClient
    ) -> Outcome:
        kind = str(stage.meta.get("worker", KIND))
        request = self._request(stage, force)
        deployment = patiently(lambda: self._deployment(client, kind), lambda: children.stopping)
        run, earlier = patiently(lambda: self._send(client, deployment, stage, request), lambda: children.stopping)
        say(f"{'found in' if earlier else 'sent to'} the work pool {pool(kind)}: {run.name}")
        told = Watch(client, run.id, kind, self._types[kind], children, say).told()
        if told.lock:
            self._take(client, run.id, stage, told)
        return told.outcome

    def _take(self, client: SyncPrefectClient, run: UUID, stage: Stage, told: Told) -> None:
        """Record what a worker has done, and bring its outs here; a run's result is taken once."""
        record(self._root, told.lock)
        self._pushed.add(stage.name)
        try:
            transfer(self._root, "pull", stage.target, tools=self._tools)
        finally:
            patiently(lambda: client.update_flow_run_labels(run, {TAKEN: True}))

    def _send(
        self, client: SyncPrefectClient, deployment: UUID, stage: Stage, request: Mapping[str, Any]
    ) -> tuple[FlowRun, bool]:
        """Send a request and return its run, and whether that was sent before; what ended badly or was taken is sent again."""
        name = uuid4().hex if request["force"] else hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        keys = [f"{name}-{number}" for number in range(SENDINGS)]
        sent = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys)),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=SENDINGS,
        )
        for run in sent:
            if _open(client, run):
                return run, True
        run = client.create_flow_run_from_deployment(
            deployment,
            name=f"{stage.name} {self._commit:.8}",
            parameters={**request, "silence": patience()},
            tags=[stage.name],
            idempotency_key=keys[len(sent)] if len(sent) < SENDINGS else None,
        )
        return run, False

    def _request(self, stage: Stage, force: bool) -> dict[str, Any]:
        """Return what a worker has to know, with everything the stage reads in the remote."""
        needed = [self._graph.stages[name] for name in self._graph.needs[stage.name]]
        missing = [other for other in needed if other.name not in self._pushed]
        if missing:
            transfer(self._root, "push", *(other.target for other in missing), tools=self._tools)
            self._pushed |= {other.name for other in missing}
        lock: dict[str, dict[str, Any]] = {}
        for other in [*needed, stage]:
            if entry := entries(self._root, other.file).get(other.name):
                lock.setdefault(other.file, {})[other.name] = entry
        return {
            "stage": stage.name,
            "commit": self._commit,
            "params": self._params,
            "lock": lock,
            "deps": wanted(stage.deps, [out.path for other in needed for out in other.outs]),
            "remote": self._remote,
            "studies": list(self._graph.studies),
            "force": force,
        }

    def _deployment(self, client: SyncPrefectClient, kind: str) -> UUID:
        """Return the deployment that sends stages to the pool of a kind, made if it is not there."""
        with self._turn:
            if kind not in self._deployments:
                self._types[kind] = make_pool(client, kind)
                flow_id = client.create_flow(stage_flow)
                name = f"on {kind}"
                self._deployments[kind] = client.create_deployment(
                    flow_id, name, work_pool_name=pool(kind), entrypoint=ENTRY, enforce_parameter_schema=False
                )
            return self._deployments[kind]


def pool(kind: str) -> str:
    """Return the name of the work pool of a kind."""
    return f"temper-{kind}"


def make_pool(client: SyncPrefectClient, kind: str) -> str:
    """Make a process pool of a kind, unless there is a pool of that name; return the type of what is there."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        return client.create_work_pool(WorkPoolCreate(name=pool(kind), type="process", base_job_template=template)).type
    except ObjectAlreadyExists:
        return client.read_work_pool(pool(kind)).type


def _open(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Tell whether a run that was sent before is at work, or has done what nobody has taken yet."""
    if run.state is None or run.labels.get(TAKEN) or run.state.is_cancelling():
        return False
    if not run.state.is_final():
        return True
    told = ending(client, run.id)
    return told is not None and told.outcome.ending in DONE


def _commit(root: Path) -> str:
    """Return the commit that the files of this checkout are; params.yaml may differ, for params are sent along."""
    commit = (history.commit(root) or "").removesuffix("+")
    words = ["git", "diff", "--name-only", "HEAD", "--", ".", f":!{PARAMS_FILE}"]
    changed = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if not commit or changed.returncode or changed.stdout:
        found = ", ".join(changed.stdout.split()) or "there is none"
        raise UserError(f"workers check out a commit, and files here differ from it ({found}): commit them, and push")
    return commit


def _remote(root: Path) -> str:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote")
        if not name:
            raise UserError(
                "data reaches the workers through a DVC remote, and none is set: dvc remote add -d NAME s3://BUCKET/PATH"
            )
        url = str(repo.config["remote"][name]["url"])
        if redacted(url) != url:
            raise UserError(f"the DVC remote {name} has a secret in its address, which all would see: use the environment")
        return url
