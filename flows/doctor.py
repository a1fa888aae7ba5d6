"""What can be wrong with a machine or a checkout, found before it costs a run: each finding with its remedy.

`mend` does only what loses nothing: it drops locks whose holder is dead, puts params.yaml back, and moves what is damaged aside:
checkpoints, entries of dvc.lock, cache objects, outs. What has a sound copy is put back from it, the rest DVC makes again.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import psutil

from flows import locks, sound
from flows.planning import history
from flows.planning.overlay import BEFORE, RUN_LEASE, effective_params, put_back
from tasks.runtime.checkpoint import damage
from tasks.runtime.extensions import stale_locks
from tasks.runtime.lease import sound_token
from tasks.runtime.params import UserError
from tasks.runtime.stage import FINISHED, WORK

State = Literal["ok", "note", "fault", "mended"]
CONSTRAINTS = Path("infra/constraints.txt")
CHECKPOINTS = Path(".temper/checkpoints")
LEASES = Path(".temper/work")
LEAN = Path(".temper/lean")
FREE_GIB = 5.0
RECENT = 50
NAMED = 3
"""Of many alike, how many are named."""
REPAIR = "temper doctor --repair"
INSTALL_LEAN = "temper doctor --install lean"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Only a `fault` needs something done; a `note` is good to know."""

    what: str
    state: State
    found: str
    remedy: str = ""
    repair: Callable[[], str | None] | None = None
    """Mends it without losing what is sound; may say what came of it."""


def examine(root: Path, *, deep: bool = False) -> list[Finding]:
    """Look at everything; `deep` hashes every cache object instead of the most recent ones. Changes nothing."""
    busy = locks.holder(root / RUN_LEASE / "lease")
    findings = [_code(root), *_pins(root), _cores(root), _disk(root), _gpus(), _prefect(), _lean(root)]
    findings += [*_builds(), *_dvc_locks(root)]
    if busy:
        findings.append(Finding("run", "note", f"in progress: {busy}; its files are not looked at"))
        return [*findings, _pipeline(root), *_cache(root, deep)]
    findings += [*_params(root), *_lockfiles(root), *_leases(root), *_drafts(root), *_checkpoints(root)]
    return [*findings, *_cache(root, deep), *_outs(root, deep)]


def mend(findings: Iterable[Finding]) -> list[Finding]:
    """Repair each fault that has a safe repair, and return the findings as they stand then."""
    after = []
    for finding in findings:
        if finding.repair is not None:
            came = finding.repair()
            finding = replace(finding, state="mended", found=f"{finding.found}: {came}" if came else finding.found, remedy="")
        after.append(finding)
    return after


def _pins(root: Path) -> Iterator[Finding]:
    """Compare what is installed with what is tested. Another build of the same version (`+cu128`) is only a note."""
    place = root / CONSTRAINTS
    if not place.is_file():
        yield Finding("pins", "note", f"no {CONSTRAINTS} to compare with")
        return
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", place.read_text(encoding="utf-8"), re.MULTILINE))
    installed = {name: found for name in pins if (found := _installed(name))}
    other = {name: found for name, found in installed.items() if found != pins[name]}
    builds = {name for name, found in other.items() if found.split("+")[0] == pins[name].split("+")[0]}
    for name in sorted(builds):
        yield Finding("pins", "note", f"{name} {other[name]}, tested with {pins[name]}")
    if wrong := [f"{name} {other[name]} instead of {pins[name]}" for name in sorted(other) if name not in builds]:
        yield Finding("pins", "fault", ", ".join(wrong), "make setup; or, if meant, expect other numbers than the tested ones")
    else:
        yield Finding(
            "pins", "ok", f"{len(installed)} packages as in {CONSTRAINTS}, {len(pins) - len(installed)} of it not installed"
        )


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code(root: Path) -> Finding:
    """Tell whether the `temper` on the path reads this checkout's code: with two checkouts and one .venv it may not."""
    home = Path(__file__).resolve().parents[1]
    if home == root.resolve() or not (root / "flows").is_dir():
        return Finding("code", "ok", f"{home}, by Python {platform.python_version()} at {sys.executable}")
    return Finding("code", "fault", f"this temper belongs to {home}, not to {root}", "make setup here, then .venv/bin/temper")


def _cores(root: Path) -> Finding:
    """Compare the threads that the params fix with the cores there are."""
    cores = len(os.sched_getaffinity(0))
    try:
        sections = effective_params(root, None).values()
    except UserError as error:
        return Finding("cores", "note", f"{cores}; params cannot be read: {error}")
    threads = max(
        (body["threads"] for body in sections if isinstance(body, dict) and isinstance(body.get("threads"), int)), default=1
    )
    if threads > cores:
        return Finding(
            "cores", "note", f"{cores}, but a stage uses {threads} threads", "it runs, slowly; other threads, other last bits"
        )
    return Finding("cores", "ok", f"{cores}; stages use up to {threads} threads")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    if free < FREE_GIB:
        return Finding("disk", "fault", f"{free:.1f} GiB free", f"free {FREE_GIB:.0f} GiB; `dvc gc --workspace` drops old outs")
    return Finding("disk", "ok", f"{free:.0f} GiB free")


def _gpus() -> Finding:
    return Finding("gpu", "ok", ", ".join(history.gpus()) or "none: stages run on the processor")


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("prefect", "ok", "PREFECT_API_URL is not set: each run starts a server of its own")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            return Finding("prefect", "ok", url)
    except (OSError, ValueError) as error:
        return Finding("prefect", "fault", f"{url} does not answer: {error}", "start it, or unset PREFECT_API_URL")


def _lean(root: Path) -> Finding:
    """Tell whether the proof checker is installed; a stage that needs it looks it over, and installs it by itself."""
    if seals := sorted(root.glob(f"{LEAN}/*/installed.json")):
        return Finding("lean", "ok", f"the proof checker is in {seals[-1].parent.relative_to(root)}")
    return Finding("lean", "ok", f"the proof checker is not installed, nor has a stage needed it; `{INSTALL_LEAN}` does it now")


def install_lean(root: Path) -> None:
    """Install the proof checker into the checkout. Raises UserError with the installer's own words when it cannot be had."""
    home = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "tasks.prove.install"]  # as a child: this module imports no room
    done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip() or "the proof checker cannot be installed")


def _pipeline(root: Path) -> Finding:
    """Let the real reading of params, dvc.yaml and dvc.lock say whether they are sound."""
    from flows.planning.graph import load_graph
    from flows.planning.sections import check_sections

    try:
        params = effective_params(root, None)
        graph = load_graph(root, params)
        check_sections(graph, root, params, graph.stages)
    except UserError as error:
        return Finding("pipeline", "fault", str(error), "as it says")
    return Finding("pipeline", "ok", f"{len(graph.stages)} stages, all params checked")


def _dvc_locks(root: Path) -> Iterator[Finding]:
    """Look at DVC's two locks: one the kernel frees by itself, and a list of process ids that a killed DVC leaves behind."""
    if at_work := locks.holder(root / ".dvc/tmp/lock"):
        yield Finding("dvc lock", "note", f"DVC is at work: {at_work}")
    if locks.holders_fault(root):
        found = f"{locks.RWLOCK} is damaged: DVC refuses to start"
        yield Finding("dvc rwlock", "fault", found, REPAIR, partial(locks.forget_holders, root))
    elif dead := locks.dead_holders(root):
        found = f"held by {', '.join(map(str, dead))}, which no longer runs"
        yield Finding("dvc rwlock", "fault", found, REPAIR, partial(locks.release, root, dead))
    else:
        living = sorted(locks.holders(root)) if (root / locks.RWLOCK).exists() else []
        yield Finding("dvc rwlock", "ok", f"held by {', '.join(map(str, living))}" if living else "free")


def _lockfiles(root: Path) -> Iterator[Finding]:
    """Look at every dvc.lock: whether it can be read, and whether it says what the run cache says."""
    faults = 0
    for place in locks.lock_files(root):
        name = place.relative_to(root)
        if fault := locks.lock_fault(place):
            faults += 1
            yield Finding("dvc.lock", "fault", f"{name}: {fault}", f"{REPAIR}, then temper run", partial(_rebuild, root, place))
            continue
        for stage, where in locks.misread(root, place):
            faults += 1
            found = f"{name}: the entry of {stage} is one character off the run cache: ...{where}..."
            yield Finding("dvc.lock", "fault", found, f"{REPAIR}, then temper run", partial(locks.drop, root, place, stage))
    if begun := locks.unfinished_runs(root):
        faults += 1
        yield Finding("dvc run cache", "fault", "an entry that was never finished", REPAIR, partial(_clear, begun))
    if not faults:
        yield _pipeline(root)


def _clear(unfinished: list[Path]) -> str:
    return f"{locks.clear(unfinished)} removed"


def _rebuild(root: Path, place: Path) -> str:
    lost = locks.rebuild(root, place)
    return f"left out: {', '.join(lost)}, which the run cache puts back" if lost else "every entry could be read"


def _leases(root: Path) -> Iterator[Finding]:
    """Look at the leases of stages: the kernel's lock on one goes with its holder, so only its text can be damaged."""
    places = sorted((root / LEASES).rglob("lease"))
    bad = [place for place in places if not sound_token(place) and locks.holder(place) is None]
    for place in bad:
        yield Finding(
            "lease",
            "fault",
            f"{place.relative_to(root)} does not say who held it",
            REPAIR,
            partial(place.unlink, missing_ok=True),
        )
    if not bad:
        yield Finding("leases", "ok", f"{len(places)}, none left behind")


def _builds() -> Iterator[Finding]:
    """Find locks of killed builds of deepspeed's operators, which every later build would wait for."""
    for lock in stale_locks():
        found = f"{lock}: a build was killed, the next one would wait for ever"
        yield Finding("operators", "fault", found, REPAIR, partial(lock.unlink, missing_ok=True))


def _params(root: Path) -> Iterator[Finding]:
    if (root / BEFORE).exists():
        found = "params.yaml still holds the overlay of a killed run"
        yield Finding("params", "fault", found, f"any temper command puts it back; or {REPAIR}", partial(_restore_params, root))


def _restore_params(root: Path) -> None:
    put_back(root)


def _drafts(root: Path) -> Iterator[Finding]:
    """Find what a killed stage had half written beside its outs: it only takes up space."""
    found = {path: re.search(r"\.draft-(\d+)$", path.name) for path in (root / "data").rglob(".*.draft-*")}
    drafts = [path for path, maker in found.items() if maker and not psutil.pid_exists(int(maker[1]))]
    if drafts:
        names = ", ".join(str(path.relative_to(root)) for path in drafts)
        yield Finding("drafts", "fault", f"left by killed stages: {names}", REPAIR, partial(_remove, drafts))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _checkpoints(root: Path) -> Iterator[Finding]:
    places = sorted(path for path in (root / CHECKPOINTS).rglob("step-*") if path.is_dir())
    faults = {place: fault for place in places if (fault := damage(place))}
    for place, fault in faults.items():
        found = f"{place.relative_to(root)}: {fault}"
        yield Finding("checkpoint", "fault", found, f"{REPAIR} moves it to {locks.DAMAGED}", partial(_move_aside, root, place))
    if not faults:
        yield Finding("checkpoints", "ok", f"{len(places)} whole")
    if waiting := [path for path in sorted((root / WORK / FINISHED).glob("*")) if any(path.iterdir())]:
        more = f" and {len(waiting) - NAMED} more" if waiting[NAMED:] else ""
        names = ", ".join(path.name for path in waiting[:NAMED]) + more
        yield Finding("checkpoints", "note", f"kept until DVC has the outs: {names}", "`temper run` drops them; so may you")


def _move_aside(root: Path, place: Path) -> None:
    aside = root / locks.DAMAGED / place.relative_to(root / CHECKPOINTS)
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)


def _cache(root: Path, deep: bool) -> Iterator[Finding]:
    """Hash cache objects: DVC trusts their names, and would put a damaged one back as if it were the out."""
    folder = sound.cache_folder(root)
    stats = {path: path.stat() for path in folder.glob("??/*")}
    objects = sorted(stats, key=lambda path: stats[path].st_mtime, reverse=True)
    looked = objects if deep else objects[:RECENT]
    bad = [path for path in looked if sound.md5(path) != path.parent.name + path.name.removesuffix(".dir")]
    for path in bad:
        yield Finding(
            "cache",
            "fault",
            f"{path} does not have the content of its name",
            f"{REPAIR}, then temper run",
            partial(sound.renew, root, path),
        )
    size = f"{sum(stat.st_size for stat in stats.values()) / 2**30:.1f} GiB"
    rest = "" if deep or len(looked) == len(objects) else "the newest, --deep looks at all; "
    if not bad:
        yield Finding(
            "cache", "ok", f"{len(looked)} of {len(objects)} objects sound; {rest}{size}, `dvc gc --workspace` drops old ones"
        )


def _outs(root: Path, deep: bool) -> Iterator[Finding]:
    """Hash what the stages made against dvc.lock, once each; `deep` also what was hashed before and not written since."""
    bad = sound.damaged(root, deep=deep)
    for one in bad:
        yield Finding("out", "fault", str(one), f"{REPAIR}, then temper run", partial(_put_back, root, one))
    if not bad:
        yield Finding("outs", "ok", "as the stages made them")


def _put_back(root: Path, bad: sound.Damage) -> str:
    if sound.put_back(root, bad):
        return "put back from the cache"
    return f"set aside; {bad.stage} runs again"
