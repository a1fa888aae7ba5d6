"""One stage on a worker's machine: the asked commit beside the worker's checkout, only the stage's deps, its outs pushed.

`temper worker KIND` starts a Prefect worker in a checkout; a coordinator (flows.pool) sends it runs of the flow below. Each run
has a folder of its own, `.temper/at/COMMIT-STAGE-PARAMS`: a clone that shares the checkout's objects and DVC cache. It goes away
when the stage is done and stays when it is not, so that the next attempt on this machine goes on from its checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State

from flows.artifacts import Page, Shown
from flows.stage import Children, attempt

AT = Path(".temper/at")
CHECKOUT = "TEMPER_CHECKOUT"
"""Names the worker's own checkout to the runs it starts, wherever Prefect starts them."""
REMOTE = "temper-pool"
ENDING = "stage-ending"
"""Key of the artifact that tells the coordinator how it ended: Prefect stores no results here."""


@flow(name="temper-stage", persist_result=False, flow_run_name="{stage} {commit:.8}", validate_parameters=False)
def stage(
    stage: str,
    commit: str,
    params: dict[str, Any],
    lock: dict[str, dict[str, Any]],
    deps: list[str],
    remote: str,
    study: str | None = None,
    force: bool = False,
) -> State[Any]:
    """Run `stage` of `commit` with `params`; `lock` holds what dvc.lock says of the stages it reads from, by file and name.

    `deps` are the paths to pull from the DVC remote at `remote`, to which the outs are pushed.
    """
    from flows.graph import load_graph
    from flows.overlay import render
    from tasks.runtime.params import PARAMS_FILE
    from tasks.runtime.stage import die_with_parent

    die_with_parent()
    root = check_out(Path(os.environ.get(CHECKOUT, ".")).resolve(), commit, stage, params)
    (root / PARAMS_FILE).write_text(render(root, params), encoding="utf-8")
    use_remote(root, remote)
    record(root, lock)
    if deps:
        dvc(root, "pull", *deps)
    planned = load_graph(root, params, study).stages[stage]
    shown, children, say = Shown(Page(), root, planned), Children(), get_run_logger().info
    try:
        ended = attempt(root, planned, children, force=force, say=say, watch=shown.progress)
    finally:
        children.stop()
    told: dict[str, Any] = {"ending": ended.ending, "seconds": ended.seconds, "code": ended.code, "detail": ended.detail}
    if done := ended.ending in ("completed", "cached"):
        shown.outs()
        dvc(root, "push", planned.target)
        told["lock"] = {planned.file: {stage: entries(root, planned.file)[stage]}}
    create_markdown_artifact(f"```json\n{json.dumps(told)}\n```", key=ENDING)
    if done:
        shutil.rmtree(root)
        return Completed(message=f"{ended.ending} in {ended.seconds:.1f} s")
    return Failed(message=ended.detail)


def check_out(checkout: Path, commit: str, stage: str, params: Mapping[str, Any]) -> Path:
    """Return a folder with `commit` checked out, that of an earlier attempt at the same work if there is one.

    Raises RuntimeError when neither this checkout nor its origin has the commit.
    """
    what = hashlib.sha256(json.dumps([stage, params], sort_keys=True).encode()).hexdigest()[:8]
    folder = checkout / AT / f"{commit[:12]}-{stage.replace('/', '_')}-{what}"
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
    (root / ".dvc/config.local").write_text("\n".join([*lines, f"url = {url}", ""]), encoding="utf-8")


def record(root: Path, lock: Mapping[str, Mapping[str, Any]]) -> None:
    """Write entries into dvc.lock, by the file of the stage and its name, under DVC's own lock."""
    from dvc.repo import Repo
    from dvc.utils.serialize import modify_yaml

    with Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
        for file, stages in lock.items():
            with modify_yaml(str(lock_file(root, file))) as data:
                data.setdefault("schema", "2.0")
                data.setdefault("stages", {}).update(stages)


def entries(root: Path, file: str) -> dict[str, Any]:
    """Return what dvc.lock says of every stage of a dvc.yaml."""
    from dvc.utils.serialize import load_yaml

    place = lock_file(root, file)
    return dict(load_yaml(str(place)).get("stages", {})) if place.is_file() else {}


def lock_file(root: Path, file: str) -> Path:
    """Return the dvc.lock beside a dvc.yaml."""
    return (root / file).with_suffix(".lock")


def dvc(root: Path, *words: str) -> None:
    """Run DVC in a folder. Raises RuntimeError with its last line."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise RuntimeError(f"dvc {' '.join(words)}: {last}")


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)


def wanted(deps: Sequence[str], outs: Sequence[str]) -> list[str]:
    """Return what to pull so that every dep is there: the dep where it lies in an out, else the outs that lie in the dep."""
    found: list[str] = []
    for dep in deps:
        above = any(dep == out or dep.startswith(f"{out}/") for out in outs)
        found += [dep] if above else [out for out in outs if out.startswith(f"{dep}/")]
    return list(dict.fromkeys(found))
