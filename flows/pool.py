"""Stages on other machines: each is sent to the Prefect work pool of its kind, and what dvc.lock says of it comes back.

A stage names its kind in dvc.yaml, `meta: {worker: gpu}`; without one it is `cpu`. Pool `temper-KIND` is what the operator has
made of it (Kubernetes, say), or a process pool made here. The coordinator keeps the graph, dvc.lock and the report; the data
goes through the DVC remote. Outs and dvc.lock are those of a run on this machine.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.states import Cancelling

from flows import history
from flows.graph import Graph, Stage
from flows.remote import ENDING, dvc, entries, record, wanted
from flows.remote import stage as stage_flow
from flows.stage import Children, Outcome
from tasks.runtime.params import PARAMS_FILE, UserError

KIND = "cpu"
"""Of a stage that names none."""
ENTRY = "flows.remote.stage"
LOOK = 1.0
"""Seconds between two looks at a stage on a worker."""


class Pools:
    """The work pools of one run, as the coordinator sees them."""

    def __init__(self, root: Path, graph: Graph, params: Mapping[str, Any]) -> None:
        """Take a checkout whose commit the workers can have. Raises UserError for changes without a commit, or no DVC remote."""
        self._root, self._graph, self._params = root, graph, dict(params)
        self._commit, self._remote = _commit(root), _remote(root)
        self._deployments: dict[str, UUID] = {}
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
        started, kind = time.monotonic(), str(stage.meta.get("worker", KIND))
        client = client or get_client(sync_client=True)
        request = self._request(stage, force)
        run = client.create_flow_run_from_deployment(self._deployment(client, kind), parameters=request, tags=[stage.name])
        say(f"sent to the work pool {pool(kind)}")
        told = self._follow(client, run.id, children)
        if told is None:
            return Outcome("stopped", time.monotonic() - started, detail="stopped on its worker")
        outcome = Outcome(told["ending"], told["seconds"], told["code"], told["detail"], ran=told["ending"] != "cached")
        if "lock" in told:
            record(self._root, told["lock"])
            self._pushed.add(stage.name)
            dvc(self._root, "pull", stage.target)
        return outcome

    def _request(self, stage: Stage, force: bool) -> dict[str, Any]:
        """Return what a worker has to know, with everything the stage reads in the remote."""
        needed = [self._graph.stages[name] for name in self._graph.needs[stage.name]]
        missing = [other for other in needed if other.name not in self._pushed]
        if missing:
            dvc(self._root, "push", *(other.target for other in missing))
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
            "study": self._graph.study,
            "force": force,
        }

    def _deployment(self, client: SyncPrefectClient, kind: str) -> UUID:
        """Return the deployment that sends stages to the pool of a kind, made if it is not there."""
        with self._turn:
            if kind not in self._deployments:
                make_pool(client, kind)
                flow_id = client.create_flow(stage_flow)
                name = f"on {kind}"
                self._deployments[kind] = client.create_deployment(
                    flow_id, name, work_pool_name=pool(kind), entrypoint=ENTRY, enforce_parameter_schema=False
                )
            return self._deployments[kind]

    def _follow(self, client: SyncPrefectClient, run: UUID, children: Children) -> dict[str, Any] | None:
        """Wait for a run on a worker and return what it told; None when it was stopped. A lost run counts as preempted."""
        stopping = False
        while True:
            state = client.read_flow_run(run).state
            if state is not None and state.is_final():
                break
            if children.stopping and not stopping:
                stopping = True
                client.set_flow_run_state(run, Cancelling())
            time.sleep(LOOK)
        if stopping or state.is_cancelled():
            return None
        if (told := _ending(client, run)) is not None:
            return told
        lost = state.is_crashed()
        ending = "preempted" if lost else "failed"
        return {"ending": ending, "seconds": 0.0, "code": 0, "detail": state.message or state.name}


def pool(kind: str) -> str:
    """Return the name of the work pool of a kind."""
    return f"temper-{kind}"


def make_pool(client: SyncPrefectClient, kind: str) -> None:
    """Make a process pool of a kind, unless there is a pool of that name, whatever its type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=pool(kind), type="process", base_job_template=template))
    except ObjectAlreadyExists:
        return


def _ending(client: SyncPrefectClient, run: UUID) -> dict[str, Any] | None:
    """Return what a run on a worker has told of its end; None when it told nothing."""
    about = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[ENDING]))
    found = client.read_artifacts(artifact_filter=about)
    if not found:
        return None
    told: dict[str, Any] = json.loads(str(found[-1].data).removeprefix("```json\n").removesuffix("\n```"))
    return told


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
        return str(repo.config["remote"][name]["url"])
