"""A soak: a small pipeline of DVC and Prefect that is killed at random moments, again and again, and must never lose a thing.

The pipeline trains a model with a checkpoint at every step, has it fill a top-k file, and writes a page of both. It runs as users
run it, `temper run`; only that coordinator and its stages are forked from warm processes, so that 200 kills take minutes.

    python -m tests.chaos.soak --kills 200 --minutes 28 --seed 0
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean

import psutil

from flows.cli import BUSY
from tasks.runtime.imports import ROOT
from tasks.runtime.stage import die_with_parent
from tests.chaos.trainers import write_distill, write_records_of_sft
from tests.flows.checkout import make_checkout
from tests.tiny import llama, save

DIGEST = '''
"""Writes a page of what the two stages before it found."""

import html
from pathlib import Path
from typing import ClassVar

from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    section: ClassVar[str] = "digest"
    title: str = "Digest"


def main(params: Params, run: Run, *, tuned: In, topk: In, out: Out) -> None:
    with publish(out) as draft:
        draft.mkdir()
        body = "".join(f"<pre>{html.escape(place.read_text())}</pre>" for place in (tuned, topk))
        (draft / "index.html").write_text(f"<h1>{params.title}</h1>{body}")


if __name__ == "__main__":
    run_stage(main)
'''
STAGES = """\
  tune:
    cmd: python -m tasks.train.sft --base base --sets sets --out out/sft --scores out/sft.json --curve out/sft.csv
    params: [sft]
    deps: [base, sets/sft.jsonl]
    outs: [out/sft]
    metrics: [{out/sft.json: {cache: true}}]
    plots: [{out/sft.csv: {x: step, y: loss}}]
  topk:
    cmd: >-
      python -m tasks.distill.teacher_topk --teacher out/sft --student base --sets distill
      --out out/topk --scores out/topk.json
    params: [teacher-topk]
    deps: [out/sft, base, distill]
    outs: [out/topk]
    metrics: [{out/topk.json: {cache: true}}]
  digest:
    cmd: python -m digest --tuned out/sft.json --topk out/topk.json --out out/report
    params: [digest]
    deps: [digest.py, out/sft.json, out/topk.json]
    outs: [out/report]
"""
PARAMS = """\
sft: {max_length: 32, batch_size: 4, threads: 1, learning_rate: 0.01, heldout: 4, epochs: 1}
teacher-topk: {max_length: 24, batch_size: 4, threads: 1}
digest: {title: Digest}
"""
STAGE_OF = {"tune": "sft", "topk": "teacher-topk", "digest": "digest"}
KINDS = ("all", "group", "parent", "child", "child")
"""What is killed: all processes at once, the groups of coordinator and DVC, the coordinator alone, one descendant alone."""
RIVALS = 0.1
"""How often a second coordinator is started beside one at work."""
PATIENCE = 20
"""Failed runs in a row, each ended by itself: a stage whose process was killed fails one, and the next goes on from there."""
SETTLE = 20.0
"""Seconds within which nothing may be left of a killed run."""


def make_pipeline(place: Path) -> Path:
    """The checkout with its inputs."""
    root = make_checkout(place, STAGES, PARAMS)
    (root / "digest.py").write_text(DIGEST)
    save(llama(), root / "base")
    write_records_of_sft(root / "sets/sft.jsonl")
    write_distill(root / "distill")
    return root


class Soak:
    """One pipeline, what warms it, and what has been seen of it."""

    def __init__(self, root: Path, host: psutil.Process, environment: dict[str, str], seed: int) -> None:
        """Take the checkout; `host` is the warm process its stages are forked from."""
        self.root, self.host, self.environment, self.draw = root, host, environment, random.Random(seed)
        self.kinds, self.victims, self.faults = Counter(), Counter(), Counter()
        self.said: list[str] = []
        self.runs = self.finished = self.rivals = self.failed = 0
        self.seconds = 8.0
        self.tokens: dict[str, int] = {}
        self.newest = 0
        self.waits: list[float] = []
        self.reference = self.undisturbed()

    # --- a run -------------------------------------------------------------------------------------------------------

    def start(self) -> psutil.Process:
        """Fork `temper run`."""
        self.runs += 1
        log, soaking = (self.root / ".temper/soak.log").open("ab"), os.getpid()
        if (process := os.fork()) == 0:
            code = 1
            try:
                die_with_parent(soaking)
                os.setsid()
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
                os.chdir(self.root)
                os.environ.update(self.environment)
                sys.path.insert(0, str(self.root))
                sys.argv = ["temper", "run"]
                from flows.cli import main

                main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except Exception:  # noqa: BLE001  the last frame of the process
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        log.close()
        return psutil.Process(process)

    def undisturbed(self) -> dict[str, str]:
        """Run once without a kill; return the hash of everything published, and note how long it took."""
        (self.root / ".temper").mkdir(exist_ok=True)
        started = time.monotonic()
        code = self.start().wait()
        assert code == 0, (self.root / ".temper/soak.log").read_text()[-4000:]
        self.seconds = time.monotonic() - started
        found = self.outs()
        assert len(found) > 8
        self.reset()
        return found

    def reset(self) -> None:
        """Forget all results, as if nothing had run."""
        for name in ("out", ".dvc/cache", ".dvc/tmp", "dvc.lock", ".temper/checkpoints", ".temper/finished"):
            place = self.root / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        self.tokens, self.newest = {}, 0

    def outs(self) -> dict[str, str]:
        """The hash of every file that was published."""
        files = sorted(path for path in (self.root / "out").rglob("*") if path.is_file() and ".draft-" not in str(path))
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    # --- a kill ------------------------------------------------------------------------------------------------------

    def family(self, run: psutil.Process) -> list[psutil.Process]:
        """Everything a run has started, the stages forked from the host among it."""
        try:
            return [*run.children(recursive=True), *self.host.children(recursive=True)]
        except psutil.NoSuchProcess:
            return self.host.children(recursive=True)

    def kill(self, run: psutil.Process, kind: str) -> None:
        """Kill as `kind` says, and see that nothing is left of a run whose coordinator was killed."""
        family = self.family(run)
        if kind == "child" and not family:
            return
        self.kinds[kind] += 1
        print(f"kill {sum(self.kinds.values())}: {kind}", file=sys.stderr, flush=True)
        if kind == "child":
            victim = self.draw.choice(family)
            self.victims[_name(victim, self.host)] += 1
            _strike(victim.pid)
            return
        if kind == "group":
            for group in {_group(process) for process in [run, *family] if _group(process)}:
                if group not in (os.getpgrp(), _group(self.host)):
                    _strike(group, os.killpg)
        elif kind == "all":
            for process in self.draw.sample([run, *family], len(family) + 1):
                _strike(process.pid)
        else:
            _strike(run.pid)
        run.wait()
        self.settle(family)

    def rival(self, run: psutil.Process) -> None:
        """Start a second coordinator while one is at work: it must leave with the code for that, and touch nothing."""
        time.sleep(self.seconds / 4)
        code = self.start().wait()
        self.rivals += 1
        if _lives(run) and code != BUSY:
            self.fault("two coordinators", f"the second ended with {code} while the first was at work")

    def settle(self, family: list[psutil.Process]) -> None:
        """Wait until nothing of a killed run lives; count what does."""
        started = time.monotonic()
        while left := [process for process in [*family, *self.host.children(recursive=True)] if _lives(process)]:
            if time.monotonic() - started > SETTLE:
                self.fault("orphan", ", ".join(" ".join(process.cmdline()) for process in left))
                for process in left:
                    _strike(process.pid)
                return
            time.sleep(0.02)
        self.waits.append(time.monotonic() - started)

    # --- what must hold ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """See that nothing done was lost: a recorded stage has not run again, and no sealed checkpoint went without its outs."""
        recorded = self.recorded()
        self.dump("look")
        for stage, token in self.tokens.items():
            if (now := self.token(stage)) != token:
                lock = (self.root / "dvc.lock").read_text() if (self.root / "dvc.lock").exists() else "none"
                forked = "\n".join((self.root.parent / "host.log").read_text().splitlines()[-12:])
                told = f"lease {token} is {now}; it has now {recorded}; forked: {forked}; dvc.lock: {lock}"
                self.fault("lost result", f"{stage} was recorded and has run again; {told}; {self.tail()}")
        self.tokens = {stage: self.token(stage) for stage in recorded}
        newest = max((int(path.parent.name[5:]) for path in self.root.glob(".temper/*/sft/*/*/step-*/complete")), default=0)
        if newest < self.newest and "tune" not in recorded:
            self.fault("lost result", f"checkpoint {self.newest} was sealed, now the newest is {newest}")
        self.newest = newest

    def recorded(self) -> list[str]:
        """The stages that dvc.lock names; none when a kill has left half of it."""
        try:
            text = (self.root / "dvc.lock").read_text()
        except FileNotFoundError:
            return []
        return [stage for stage in STAGE_OF if f"  {stage}:\n" in text] if text.endswith("\n") else []

    def token(self, stage: str) -> int:
        """How often a stage has been started: every start takes its lease once."""
        place = self.root / ".temper/work" / STAGE_OF[stage] / "lease"
        return int((place.read_text().split() or ["0"])[0]) if place.exists() else 0

    def ended(self, code: int) -> None:
        """Judge a run that ended by itself."""
        self.failed = self.failed + 1 if code == 1 else 0
        if self.failed > PATIENCE:
            raise RuntimeError(f"{self.failed} runs failed that nobody had killed: {self.tail()}")
        if code == 0:
            self.finished += 1
            if (found := self.outs()) != self.reference:
                self.fault("wrong bits", str(sorted(set(found.items()) ^ set(self.reference.items()))))
            self.look()
            self.reset()
        elif code != 1:
            said = self.tail()
            self.fault("stuck lease" if code == 3 or "already being run" in said else "refused", f"{code}: {said}")

    def dump(self, what: str) -> None:
        """Note, among what runs say, what is recorded and who has held the leases."""
        with (self.root / ".temper/soak.log").open("a") as log:
            tokens = {stage: self.token(stage) for stage in STAGE_OF}
            log.write(f"-- {what} after {sum(self.kinds.values())} kills: recorded {self.recorded()}, leases {tokens}\n")

    def tail(self) -> str:
        """The last that runs have said."""
        return (self.root / ".temper/soak.log").read_text(errors="replace")[-1500:]

    def fault(self, kind: str, what: str) -> None:
        """Note something that must not be."""
        self.faults[kind] += 1
        self.said.append(f"{kind}: {what}")
        print(f"FAULT after {sum(self.kinds.values())} kills: {kind}: {what}", flush=True)

    def run(self, kills: int, minutes: float) -> dict:
        """Kill so many times, or for so long; then let the pipeline finish, and return what was seen."""
        deadline, told = time.monotonic() + 60 * minutes, 0
        while sum(self.kinds.values()) < kills and time.monotonic() < deadline:
            run = self.start()
            if self.draw.random() < RIVALS:
                self.rival(run)
            while (code := self.wait(run, self.seconds * self.draw.random() ** 2)) is None:
                kind = self.draw.choice(KINDS)
                self.kill(run, kind)
                if kind != "child":
                    break
            if code is not None:
                self.ended(code)
            self.look()
            done = sum(self.kinds.values())
            if done // 10 > told:
                told = done // 10
                print(f"{done} kills, {self.runs} runs, {self.finished} finished, faults {dict(self.faults)}", flush=True)
        code = 1
        while code == 1:
            code = self.start().wait()
            self.ended(code)
        return {
            "kills": sum(self.kinds.values()),
            "of": dict(self.kinds),
            "victims": dict(self.victims),
            "runs": self.runs,
            "rivals": self.rivals,
            "finished": self.finished,
            "undisturbed_s": round(self.seconds, 1),
            "gone_after_s": {"mean": round(fmean(self.waits), 2), "most": round(max(self.waits), 2)} if self.waits else {},
            "faults": dict(self.faults),
            "said": self.said,
        }

    def wait(self, run: psutil.Process, seconds: float) -> int | None:
        """Wait for a run to end; None when it is still at work after so many seconds."""
        try:
            return run.wait(seconds)
        except psutil.TimeoutExpired:
            return None


def _strike(number: int, how=os.kill) -> None:
    with suppress(ProcessLookupError):
        how(number, signal.SIGKILL)


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process, host: psutil.Process) -> str:
    """What a process is: a stage forked from the host, DVC, or what DVC has started."""
    try:
        words = " ".join(process.cmdline())
        return "stage" if process.ppid() == host.pid else "dvc" if "flows.child" in words else "stage's caller"
    except psutil.NoSuchProcess:
        return "gone"


SERVER = "import sys, time; from pathlib import Path; from flows.server import start_in_background as start; "
SERVER += "server = start(Path(sys.argv[1])); server.wait(); print(server.api_url, flush=True); time.sleep(1e6)"


@contextmanager
def warmed(place: Path):
    """Yield the host of the stages, and the environment of a run that finds it and a Prefect server."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(place / "prefect")}
    variables |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    address = place / "host"
    (place / "server").mkdir()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(place / "server")], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    )
    with (place / "host.log").open("wb") as log:
        host = subprocess.Popen([sys.executable, "-m", "tasks.runtime.host", str(address)], cwd=ROOT, env=variables, stdout=log)
    try:
        url = server.stdout.readline().strip()
        assert url, "the Prefect server did not come up"
        while not address.exists():
            assert host.poll() is None
            time.sleep(0.1)
        import dvc.repo  # noqa: F401
        import prefect.flows  # noqa: F401

        import flows.cli
        import flows.pipeline  # noqa: F401

        more = {"PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        yield psutil.Process(host.pid), {**variables, **more, "TEMPER_HOST": str(address), "TEMPER_CHECKPOINT_SECONDS": "0"}
    finally:
        for process in (host, server):
            process.terminate()
            process.wait()


def soak(place: Path, kills: int, minutes: float, seed: int) -> dict:
    """Make the pipeline below `place`, kill it so often, and return what was seen."""
    with warmed(place) as (host, environment):
        return Soak(make_pipeline(place / "checkout"), host, environment, seed).run(kills, minutes)


def main() -> None:
    """Soak as long as the command line says, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is stopped
    place = Path(tempfile.mkdtemp(prefix="temper-soak-"))
    started, before = time.monotonic(), os.times()
    found = soak(place, asked.kills, asked.minutes, asked.seed)
    after = os.times()
    spent = sum(after[:4]) - sum(before[:4])
    print(json.dumps({**found, "minutes": round((time.monotonic() - started) / 60, 1), "cpu_s": round(spent)}, indent=1))
    shutil.rmtree(place)
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
