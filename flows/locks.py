"""The files in which DVC keeps what it has done and who is at it: what a killed DVC leaves there, and how that is mended.

DVC writes both in place, so a kill can leave half of either, or nothing: such a list of holders stops every later DVC, such a
dvc.lock every later run. A run mends them by itself before it plans, under its lease; the doctor tells of them and of what a run
cannot see. What is taken out of dvc.lock is not lost: DVC's run cache knows the stage, and puts its outs back without running it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML, YAMLError

from flows.planning.studies import STUDIES

RWLOCK = Path(".dvc/tmp/rwlock")
GUARD = Path(".dvc/tmp/rwlock.lock")
RUNS = Path(".dvc/cache/runs")
RUN = re.compile("[0-9a-f]{64}")
"""Name of an entry of the run cache, and of the folder of those with the same command and inputs; a draft has another."""
DAMAGED = Path(".temper/damaged")
HEAD = "schema: '2.0'\nstages:\n"
ENTRY = re.compile(r"^  (?=\S)", re.MULTILINE)
"""Where an entry of a dvc.lock begins."""


def recover(root: Path) -> list[str]:
    """Mend what a DVC that was killed left; return what was done, a line each. Needs the run lease. Costs milliseconds."""
    notices = []
    if holder(root / GUARD) is None:
        if holders_fault(root):
            forget_holders(root)
            notices.append(f"a killed DVC left half of {RWLOCK}; it is removed")
        elif dead := dead_holders(root):
            release(root, dead)
        if begun := unfinished_runs(root):
            notices.append(f"a killed DVC left {clear(begun)} of its run cache unfinished; removed")
    for place in lock_files(root):
        text = place.read_bytes()
        if not text.endswith(b"\n"):
            lost = rebuild(root, place)
            left = "half" if text else "nothing"
            notices.append(f"a killed DVC left {left} of {place.relative_to(root)}; {_kept(lost if text else ['all stages'])}")
    return notices


def unfinished_runs(root: Path) -> list[Path]:
    """Return what a kill has left in DVC's run cache: drafts, and behind them the folders that hold nothing else.

    DVC takes the newest entry of a folder: a draft hides what is whole, be it cut short where it can still be read, and where
    there is nothing DVC fails. While a DVC is at work what it has begun is its own, and nothing is returned.
    """
    found: list[Path] = []
    if _held(root):
        return found
    for folder in (root / RUNS).glob("??/*"):
        entries = list(folder.iterdir())
        drafts = [entry for entry in entries if not RUN.fullmatch(entry.name)]
        found += drafts
        if len(drafts) == len(entries):
            found.append(folder)
    return found


def clear(unfinished: list[Path]) -> str:
    """Remove the drafts and folders that `unfinished_runs` found; return how many folders they are of, in words."""
    for place in unfinished:
        place.rmdir() if place.is_dir() else place.unlink()
    folders = {place if RUN.fullmatch(place.name) else place.parent for place in unfinished}
    return f"{len(folders)} {'entry' if len(folders) == 1 else 'entries'}"


def lock_files(root: Path) -> list[Path]:
    """Return every dvc.lock there is, the pipeline's and those of the studies."""
    return [place for place in (root / "dvc.lock", *sorted((root / STUDIES).glob("*/dvc.lock"))) if place.is_file()]


def lock_fault(place: Path) -> str | None:
    """Say why DVC would not read a dvc.lock, or None."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(place.read_text(encoding="utf-8")) or {})
    except UnicodeDecodeError as error:
        return f"it is not text ({error.reason} at byte {error.start})"
    except (YAMLError, Invalid) as error:
        return " ".join(str(error).split())
    return None


def salvage(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of a damaged dvc.lock that can be read, by stage, and the first line of every other.

    The last of a file cut short is lost, whole as it may look: DVC would take half a hash for a changed out.
    """
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
    from voluptuous import Invalid

    kept, lost = dict[str, Any](), list[str]()
    blocks = ENTRY.split(text.partition("stages:\n")[2])[1:]
    for number, block in enumerate(blocks, start=1):
        try:
            if number == len(blocks) and not text.endswith("\n"):
                raise ValueError("cut short")
            ((name, entry),) = dict(YAML(typ="safe").load(f"  {block}")).items()
            COMPILED_LOCK_FILE_STAGE_SCHEMA(entry)
            kept[str(name)] = entry
        except (YAMLError, Invalid, TypeError, ValueError):
            lost.append(block.partition("\n")[0].rstrip(":"))
    return kept, lost


def rebuild(root: Path, place: Path) -> list[str]:
    """Write a dvc.lock anew with the entries that can be read; the damaged one is kept aside. Return what was left out."""
    text = place.read_bytes().decode("utf-8", "replace")
    kept, lost = salvage(text)
    set_aside(root, place)
    write_entries(place, kept)
    return lost


def drop(root: Path, place: Path, stage: str) -> str:
    """Take the entry of one stage out of a dvc.lock, and keep the file as it was aside."""
    entries = YAML(typ="safe").load(place.read_text(encoding="utf-8"))["stages"]
    set_aside(root, place)
    write_entries(place, {name: entry for name, entry in entries.items() if name != stage})
    return "left out; the run cache puts it back"


def write_entries(place: Path, entries: dict[str, Any]) -> None:
    """Write a dvc.lock as a whole."""
    from dvc.utils.serialize import dump_yaml

    draft = place.with_name(f".{place.name}.draft-{os.getpid()}")
    dump_yaml(str(draft), {"schema": "2.0", "stages": entries})
    draft.replace(place)


def set_aside(root: Path, place: Path) -> Path:
    """Move a damaged file to a place of its own below DAMAGED, so that nothing is lost by mending; return where it is."""
    aside = root / DAMAGED / place.relative_to(root)
    aside.parent.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in aside.parent.glob(f"{aside.name}*"))
    aside = aside.with_name(f"{aside.name}.{number}") if number else aside
    place.replace(aside)
    return aside


def _kept(lost: list[str]) -> str:
    return f"the entries of {', '.join(lost)} are taken from the run cache" if lost else "every entry of it could be read"


def misread(root: Path, place: Path) -> Iterator[tuple[str, str]]:
    """Yield each stage whose entry in a dvc.lock is one character off what the run cache has of it, and the place.

    That is how a flipped bit looks. A change of code, data or params changes whole hashes, and the run cache knows it as well.
    """
    entries = (YAML(typ="safe").load(place.read_text(encoding="utf-8")) or {}).get("stages", {})
    known = _run_cache(root)
    for name, entry in entries.items():
        mine = _canonical(entry)
        if mine not in known and (near := next((one for one in known if _one_off(one, mine)), None)):
            at = next(n for n, (one, other) in enumerate(zip(near, mine, strict=True)) if one != other)
            yield str(name), mine[max(0, at - 40) : at + 20]


def _run_cache(root: Path) -> set[str]:
    """Return every entry that DVC's run cache has, what cannot be read left out: DVC leaves it out too."""
    found = set[str]()
    for place in (root / RUNS).glob("??/*/*"):
        try:
            found.add(_canonical(YAML(typ="safe").load(place.read_text(encoding="utf-8"))))
        except (YAMLError, UnicodeDecodeError, TypeError):
            continue
    return found


def _canonical(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True)


def _one_off(one: str, other: str) -> bool:
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 1


def holders(root: Path) -> set[int]:
    """Return the processes that by DVC's list hold files. Raises an error of reading or of looking up for half a list."""
    lock = json.loads((root / RWLOCK).read_text(encoding="utf-8"))
    readers = [info for infos in lock.get("read", {}).values() for info in infos]
    return {int(info["pid"]) for info in [*readers, *lock.get("write", {}).values()]}


def holders_fault(root: Path) -> bool:
    """Tell whether DVC could not read its list of holders, and so refuses to start."""
    try:
        holders(root)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        return True
    return False


def dead_holders(root: Path) -> list[int]:
    """Return the holders that no longer run. One whose number is another process's by now would block DVC while that lives."""
    try:
        return sorted(pid for pid in holders(root) if not _alive(pid, (root / RWLOCK).stat().st_mtime))
    except FileNotFoundError:
        return []


def _held(root: Path) -> bool:
    """Tell whether a DVC is at work, as one may be where its list cannot be read."""
    try:
        return holders_fault(root) or bool(holders(root) - set(dead_holders(root)))
    except FileNotFoundError:
        return False


def forget_holders(root: Path) -> None:
    """Remove a list that cannot be read."""
    (root / RWLOCK).unlink()


def release(root: Path, dead: list[int]) -> None:
    """Take the dead holders out of DVC's list, and leave the living."""
    lock = json.loads((root / RWLOCK).read_text(encoding="utf-8"))
    write = {path: info for path, info in lock.get("write", {}).items() if info["pid"] not in dead}
    read = {path: [info for info in infos if info["pid"] not in dead] for path, infos in lock.get("read", {}).items()}
    draft = root / f"{RWLOCK}.draft-{os.getpid()}"
    draft.write_text(
        json.dumps({"write": write, "read": {path: infos for path, infos in read.items() if infos}}), encoding="utf-8"
    )
    draft.replace(root / RWLOCK)


def _alive(pid: int, since: float) -> bool:
    """Tell whether `pid` still is the process that it was at `since`: numbers are used again.

    A clock that was set since proves nothing against a process that by its command line is a DVC.
    """
    try:
        process = psutil.Process(pid)
        return process.create_time() <= since + 1 or any("dvc" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def holder(place: Path) -> str | None:
    """Return what a lock file says of its holder when the kernel still has it locked, else None."""
    if not place.exists():
        return None
    with place.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.readline().strip() or "a process that has not given its number"
    return None
