"""One stage on a worker's machine: the asked commit beside the worker's checkout, only the stage's deps, its outs pushed.

`temper worker KIND` takes runs of the flow below (flows.workers.worker) that a coordinator sends (flows.workers.pool). Each run
has a folder of its own, `.temper/at/COMMIT-STAGE-PARAMS`: a clone that shares the checkout's objects and DVC cache. It goes away
when the stage is done and stays when it is not, so that the next attempt on this machine goes on from its checkpoints; one at a
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.engine import handle_engine_signals
from prefect.flow_engine import run_flow
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from flows import host
from flows.planning.graph import Stage, load_graph
from flows.planning.recorded import entries, record
from flows.redact import redacted
from flows.stage import Children, Outcome, attempt
from flows.watching.artifacts import Page, Shown
from flows.workers.gpus import Stopped, lent
from flows.workers.pulse import Beat, dismissed, patiently
from tasks.runtime.host import HOST
from tasks.runtime.lease import Lease
from tasks.runtime.params import PARAMS_FILE, UserError

AT, LEASES = Path(".temper/at"), Path(".temper/leases")
CHECKOUT = "TEMPER_CHECKOUT"
"""Names the worker's own checkout to the runs it starts, wherever Prefect starts them."""
TOOLS, STAGES = "TEMPER_TOOLS", "TEMPER_STAGES"
"""Name the sockets of the worker's warm processes (flows.host): of what runs a stage, and of what a stage is."""
KIND = "cpu"
"""Of a stage that names none; it holds no GPU, unless it asks for one."""
REMOTE = "temper-pool"
ENDING = "stage-ending"
"""Key of the artifact that tells the coordinator how it ended: Prefect stores no results here."""
TURN = 90.0
"""Seconds to wait for an earlier attempt on this machine, which stops when it learns that it was counted as lost."""
DONE = ("completed", "cached")
TRIES = 3
"""How often a transfer is begun, each time with the retries of its storage's client; what has arrived does not go again."""


class TransferError(RuntimeError):
    """The DVC remote failed for good. What was made is kept where it is, so another attempt has only to transfer it."""


@flow(name="temper-stage", persist_result=False, flow_run_name="{stage} {commit:.8}", validate_parameters=False)
def stage(
    stage: str,
    commit: str,
    params: dict[str, Any],
    lock: dict[str, dict[str, Any]],
    deps: list[str],
    remote: str,
    studies: Sequence[str] = (),
    force: bool = False,
    silence: float = 60.0,
) -> State[Any]:
    """Run `stage` of `commit` with `params`; `lock` holds what dvc.lock says of the stages it reads from, by file and name.

    `deps` are the paths to pull from the DVC remote at `remote`, to which the outs are pushed. After `silence` seconds without
    a sign of life the coordinator counts this run as lost.
    """
    from tasks.runtime.stage import die_with_parent

    die_with_parent()
    run_id, children, say = cast(Any, flow_run.id), Children(), get_run_logger().info
    checkout = Path(os.environ.get(CHECKOUT, ".")).resolve()
    name = folder_name(commit, stage, params)
    with Beat(run_id, silence, children.stop) as beat, turn(checkout / LEASES / name, children, say) as mine:
        if not mine:
            return _tell(Outcome("preempted", detail="an earlier attempt is still at it on this worker"))
        try:
            root = check_out(checkout, commit, stage, params)
            prepare(root, remote, params, lock, deps)
            planned = load_graph(root, params, studies).stages[stage]
            shown = Shown(Page(), root, planned)
            with until_asked_to_end(children):
                ended = _attempt(root, planned, children, force, say, shown)
            if beat.ended or patiently(lambda: _dismissed(run_id)):
                return Cancelled(message=f"this run was {beat.ended or 'dismissed'}: it tells no result")
            if ended.ending == "stopped":
                return _tell(replace(ended, ending="preempted", detail=f"its worker was asked to end; {ended.detail}"))
            if ended.ending not in DONE:
                return _tell(ended)
            with ThreadPoolExecutor(1) as beside:
                pushing = beside.submit(transfer, root, "push", planned.target)
                shown.outs()
            pushing.result()
        except TransferError as error:
            return _tell(Outcome("preempted", detail=str(error)))
        told = _tell(ended, {planned.file: {stage: entries(root, planned.file)[stage]}})
        shutil.rmtree(root)
        return told


@contextlib.contextmanager
def turn(place: Path, children: Children, say: Callable[[str], None], patience: float = TURN) -> Iterator[bool]:
    """Hold the folder of an attempt, waiting for an earlier attempt at it to stop; yield False when it does not."""
    deadline, told = time.monotonic() + patience, False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(Lease(place, "this stage"))
            except UserError as busy:
                if time.monotonic() > deadline or children.stopping:
                    break
                if not told:
                    say(f"waiting: {busy}")
                told = True
                time.sleep(0.5)
            else:
                yield True
                return
    yield False


@contextlib.contextmanager
def until_asked_to_end(children: Children) -> Iterator[None]:
    """Have SIGTERM stop the children with time for their checkpoints; Prefect's own handler unwinds, which kills them at once."""
    before = signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=children.stop, daemon=True).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(
    root: Path, remote: str, params: Mapping[str, Any], lock: Mapping[str, Mapping[str, Any]], deps: Sequence[str]
) -> None:
    """Bring params, the entries of dvc.lock and the deps to a folder of `check_out`."""
    from flows.planning.overlay import render

    (root / PARAMS_FILE).write_text(render(root, params), encoding="utf-8")
    use_remote(root, remote)
    record(root, lock)
    if deps:
        transfer(root, "pull", *deps)


def _attempt(root: Path, planned: Stage, children: Children, force: bool, say: Callable[[str], None], shown: Shown) -> Outcome:
    """Run the stage once, with the GPUs it asks for and no others."""
    env = {HOST: place} if (place := os.environ.get(STAGES)) else {}
    count = int(planned.meta.get("gpus", 0 if planned.meta.get("worker", KIND) == KIND else 1))
    try:
        with lent(count, lambda: children.stopping, say) as pinned:
            return attempt(root, planned, children, force=force, say=say, watch=shown.progress, env={**env, **pinned})
    except UserError as error:
        return Outcome("failed", code=2, detail=str(error))
    except Stopped:
        return Outcome("stopped", detail="stopped while it waited for a GPU")
    finally:
        children.stop()


def _tell(ended: Outcome, lock: Mapping[str, Any] | None = None) -> State[Any]:
    """Tell the coordinator how it ended, however long the server is away; return the state of this run."""
    told: dict[str, Any] = {"ending": ended.ending, "seconds": ended.seconds, "code": ended.code, "detail": ended.detail}
    if lock:
        told["lock"] = lock
    patiently(lambda: create_markdown_artifact(f"```json\n{json.dumps(told)}\n```", key=ENDING))
    if ended.ending in DONE:
        return Completed(message=f"{ended.ending} in {ended.seconds:.1f} s")
    return Failed(message=ended.detail)


def _dismissed(run: Any) -> str | None:
    with get_client(sync_client=True) as client:
        return dismissed(client, run)


def folder_name(commit: str, stage: str, params: Mapping[str, Any]) -> str:
    """Return the name of the folder for a stage of a commit with certain params."""
    what = hashlib.sha256(json.dumps([stage, params], sort_keys=True).encode()).hexdigest()[:8]
    return f"{commit[:12]}-{stage.replace('/', '_')}-{what}"


def check_out(checkout: Path, commit: str, stage: str, params: Mapping[str, Any]) -> Path:
    """Return a folder with `commit` checked out, that of an earlier attempt at the same work if there is one.

    Raises RuntimeError when neither this checkout nor its origin has the commit.
    """
    folder = checkout / AT / folder_name(commit, stage, params)
    if (folder / ".dvc").is_dir():
        return folder
    if _git(checkout, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        fetched = _git(checkout, "fetch", "--quiet", "--all")
        if _git(checkout, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
            raise RuntimeError(f"{checkout}: has no commit {commit}, nor has its origin; push it. {fetched.stderr.strip()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for words in (
        ("clone", "--quiet", "--shared", "--no-checkout", str(checkout), str(folder)),
        ("-C", str(folder), "checkout", "--quiet", "--detach", commit),
    ):
        done = _git(checkout, *words)
        if done.returncode:
            raise RuntimeError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return folder


def use_remote(root: Path, url: str) -> None:
    """Point a folder of `check_out` at the worker's cache and at the remote; credentials come from the worker's environment."""
    lines = ["[core]", f"remote = {REMOTE}", "[cache]", f"dir = {root.parents[2] / '.dvc/cache'}", f"['remote \"{REMOTE}\"']"]
    text = "\n".join([*lines, f"url = {url}", "verify = true", ""])  # what arrives is hashed: DVC believes S3 otherwise
    (root / ".dvc/config.local").write_text(text, encoding="utf-8")


def transfer(root: Path, way: str, *targets: str, tools: str | None = None) -> None:
    """Push or pull with DVC, forked from the warm process at `tools` or this worker's. Raises TransferError with the reason."""
    for number in range(TRIES):
        if number:
            time.sleep(2.0**number)
        done = host.run(tools or os.environ.get(TOOLS), "dvc", "--wait-for-lock", way, *targets, cwd=root)
        if done.returncode == 0:
            return
    errors = [line.removeprefix("ERROR: ") for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    said = "; ".join(dict.fromkeys(errors[:1] + errors[-1:])) or f"it ended with {done.returncode}"
    raise TransferError(redacted(f"dvc {way} {' '.join(targets)}: {said}; what was made is kept, the same command goes on"))


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)


def wanted(deps: Sequence[str], outs: Sequence[str]) -> list[str]:
    """Return what to pull so that every dep is there: the dep where it lies in an out, else the outs that lie in the dep."""
    found: list[str] = []
    for dep in deps:
        above = any(dep == out or dep.startswith(f"{out}/") for out in outs)
        found += [dep] if above else [out for out in outs if out.startswith(f"{dep}/")]
    return list(dict.fromkeys(found))


def main(run: UUID) -> None:
    """Be the process of a run that a worker has taken (flows.workers.worker), as Prefect's engine is where Prefect starts it."""
    with handle_engine_signals(run), get_client(sync_client=True) as client:
        run_flow(stage, flow_run=client.read_flow_run(run), error_logger=get_logger("temper"))


if __name__ == "__main__":
    main(UUID(sys.argv[1]))
