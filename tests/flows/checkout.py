"""Checkouts for tests of the runner: real git, real DVC, and one small stage module that keeps the real stage contract."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.planning.graph import Graph, Step, load_graph
from flows.planning.overlay import effective_params
from flows.planning.plan import plan

WORK = '''
"""A stage that counts to `steps`, a checkpoint each, and can be told to fail, to refuse, or to be killed once."""

import json, os, signal, sys, time
from pathlib import Path
from typing import ClassVar

from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.stage import Out, Run, run_stage


class Params(StageParams):
    section: ClassVar[str] = "work"
    steps: int = 3
    seconds: float = 0.0
    how: str = "well"
    loss: float = 1.0


def main(params: Params, run: Run, *, out: Out, scores: Out, curve: Out) -> None:
    if params.how == "refuse":
        raise UserError("params.yaml: work.how: refused; choose another")
    if params.how == "fail":
        raise RuntimeError("it broke")
    latest = run.checkpoints.latest()
    counted = json.loads((latest[1] / "state.json").read_text()) if latest else []
    progress = run.progress(params.steps, "steps")
    for step in range(len(counted), params.steps):
        if params.how in ("killed", "preempted") and step == 2 and not latest:
            os.kill(os.getpid(), signal.SIGKILL if params.how == "killed" else signal.SIGTERM)
        time.sleep(params.seconds)
        counted.append(os.getpid())
        with run.checkpoints.save(step) as draft:
            (draft / "state.json").write_text(json.dumps(counted))
        progress.advance()
    with publish(out) as draft:
        draft.write_text(json.dumps(counted))
    publish_json(scores, {"loss": params.loss, "skills": {"recall": 0.25, "cipher": 0.125}})
    publish_curve(curve, [{"step": step, "loss": params.loss / (step + 1)} for step in range(params.steps)])
    run.checkpoints.clear()


if __name__ == "__main__":
    run_stage(main)
'''
WORK_STAGE = """\
  work:
    cmd: python -m work --out out/work.json --scores out/scores.json --curve out/curve.csv
    params: [work]
    deps: [work.py]
    outs: [out/work.json]
    metrics: [{out/scores.json: {cache: true}}]
    plots: [{out/curve.csv: {x: step, y: loss}}]
"""


def make_checkout(root: Path, stages: str = WORK_STAGE, params: str = "work: {}") -> Path:
    """Make a committed checkout at `root` whose dvc.yaml has `stages`; `work.py` lies in it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_text(f"stages:\n{stages}")
    (root / "params.yaml").write_text(f"{params}\n")
    (root / "work.py").write_text(WORK)
    (root / ".gitignore").write_text("/.temper/\n/out/\n__pycache__/\n")
    (root / ".dvcignore").write_text(".temper\n__pycache__\n")
    command(root, "git", "init", "-q", "-b", "main")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n    autostage = false\n")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    command(root, "git", "add", "-A")
    command(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "start")
    return root


def command(root: Path, *words: str) -> str:
    """Run a command in a checkout, this interpreter's scripts first, and return what it prints."""
    return subprocess.run(words, cwd=root, env=environment(), check=True, capture_output=True, text=True).stdout


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user of this installation who has configured no Prefect API."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return inherited | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | more


def planned(root: Path, *targets: str, force: tuple[str, ...] = ()) -> tuple[Graph, list[Step], Mapping[str, Any]]:
    """Plan a checkout as `temper run` does: the graph, the steps and the params."""
    params = effective_params(root, None)
    graph = load_graph(root, params)
    return graph, plan(graph, root, params, targets or tuple(graph.stages), force), params
