"""Whether what lies on disk is what dvc.lock says was made: DVC trusts names and times, and would hand on a flipped bit as sound.

DVC copies an object of its cache into the place of an out without reading it, and takes it for the out from then on. So before
a stage runs, every file that it reads and another stage made is hashed here and compared with dvc.lock. A file is hashed once:
while its inode, size and times stay, its hash is remembered. What is damaged is put back from a copy that is sound, or else made
again; the damaged bytes are kept aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from flows.locks import DAMAGED, ENTRY, lock_files

MEMO = Path(".temper/verified.sqlite")
"""Hash of every file that was hashed, by path, with what would have changed had the file been written since."""
WHOLE = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
Hashes = Mapping[str, str]


@dataclass(frozen=True)
class Damage:
    """A file in the workspace that is not what the stage that made it published."""

    stage: str
    path: str
    """Relative to the root."""
    md5: str
    """What it should have; empty when only the folder's hash tells that something in it is wrong."""
    out: str
    """The out it belongs to."""

    def __str__(self) -> str:
        """Say it on one line."""
        return f"{self.path} is not what {self.stage} made"


class Memo:
    """Hashes of files, each worked out once."""

    def __init__(self, root: Path, trusting: bool = True) -> None:
        """Remember in `root`; one that is not `trusting` hashes everything again."""
        self.root, self.trusting = root, trusting
        (root / MEMO).parent.mkdir(parents=True, exist_ok=True)

    def md5(self, place: Path) -> str:
        """Return the MD5 of a file, by which DVC names it."""
        stat = place.stat()
        now = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        with closing(self._open()) as memo:
            found = memo.execute("SELECT stat, md5 FROM files WHERE path = ?", (str(place),)).fetchone()
            if found and found[0] == now and self.trusting:
                return str(found[1])
            digest = md5(place)
            memo.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (str(place), now, digest))
        return digest

    def _open(self) -> sqlite3.Connection:
        memo = sqlite3.connect(self.root / MEMO, timeout=60, isolation_level=None)
        try:
            memo.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stat TEXT, md5 TEXT)")
        except sqlite3.DatabaseError:  # a memo that is damaged is begun anew: it holds nothing but time saved
            memo.close()
            (self.root / MEMO).unlink(missing_ok=True)
            return self._open()
        return memo


def md5(path: Path) -> str:
    """Return the MD5 of a file's content, by which DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def outs(root: Path, stages: Collection[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (stage, entry of dvc.lock) of every out of `stages`, by default of all, that has an MD5.

    What cannot be read has none: DVC may be writing the file just now.
    """
    for place in lock_files(root):
        above = place.parent.resolve().relative_to(root.resolve())
        for block in ENTRY.split(place.read_bytes().decode("utf-8", "replace").partition("stages:\n")[2])[1:]:
            name = block.partition(":\n")[0].strip("'\"")
            if stages is not None and name not in stages:
                continue
            try:
                entry = YAML(typ="safe").load(f"  {block}")[name]
                found = [out for out in entry.get("outs", []) if WHOLE.fullmatch(str(out.get("md5")))]
            except (YAMLError, TypeError, KeyError, AttributeError):
                continue
            yield from ((name, {**out, "path": os.path.normpath(above / out["path"])}) for out in found)


def damaged(
    root: Path, paths: Iterable[str] | None = None, stages: Collection[str] | None = None, *, deep: bool = False
) -> list[Damage]:
    """Return the damage to the outs of `stages` that overlap `paths`, by default to all.

    `deep` hashes anew what was hashed before. An out that is not there, or lacks files, is not damaged: DVC sees that by itself.
    """
    wanted = None if paths is None else list(paths)
    memo, found = Memo(root, trusting=not deep), list[Damage]()
    for stage, out in outs(root, stages):
        if (wanted is None or any(_overlap(path, out["path"]) for path in wanted)) and (root / out["path"]).exists():
            found += _damage(root, memo, stage, out)
    return found


def _damage(root: Path, memo: Memo, stage: str, out: Mapping[str, Any]) -> list[Damage]:
    place = root / out["path"]
    if place.is_file():
        wrong = memo.md5(place) != out["md5"]
        return [Damage(stage, out["path"], out["md5"], out["path"])] if wrong else []
    hashes = {str(path.relative_to(place)): memo.md5(path) for path in sorted(place.rglob("*")) if path.is_file()}
    if folder_md5(hashes) == out["md5"]:
        return []
    if (known := listing(root, out["md5"])) is None:
        return [Damage(stage, out["path"], "", out["path"])]
    bad = [name for name, digest in known.items() if hashes.get(name, digest) != digest]
    return [Damage(stage, f"{out['path']}/{name}", known[name], out["path"]) for name in bad]


def folder_md5(hashes: Hashes) -> str:
    """Return the hash that DVC gives a folder of files with these hashes."""
    return hashlib.md5(_folder_listing(hashes), usedforsecurity=False).hexdigest() + ".dir"


def _folder_listing(hashes: Hashes) -> bytes:
    return json.dumps([{"md5": hashes[name], "relpath": name} for name in sorted(hashes)], sort_keys=True).encode()


def listing(root: Path, digest: str) -> dict[str, str] | None:
    """Return the hash of every file of a folder with this hash, from DVC's cache; None when its listing is gone or damaged."""
    place = cached(root, digest)
    if not place.is_file() or md5(place) != digest.removesuffix(".dir"):
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(place.read_text(encoding="utf-8"))}


def cache_folder(root: Path) -> Path:
    """Return where DVC keeps its objects."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def cached(root: Path, digest: str) -> Path:
    """Return the place of an object in DVC's cache."""
    return cache_folder(root) / digest[:2] / digest[2:]


def put_back(root: Path, damage: Damage) -> bool:
    """Replace a damaged file by the object in DVC's cache, if that is sound or can be made so; return whether it was.

    The damaged file is kept aside. Without a sound object it goes all the same, with the object, so that DVC makes both again
    instead of taking them for the out.
    """
    place, source = root / damage.path, cached(root, damage.md5) if damage.md5 else None
    _aside(root, place)
    if source is None or not source.is_file():
        return False
    if md5(source) != damage.md5:
        renew(root, source)
    if not source.is_file():
        return False
    draft = place.with_name(f".{place.name}.draft-{os.getpid()}")
    shutil.copyfile(source, draft)
    draft.replace(place)
    return True


def mend_inputs(root: Path, paths: Iterable[str], stages: Collection[str]) -> list[Damage]:
    """Put back whatever is damaged of the outs of `stages` that another is about to read at `paths`; return what could not be."""
    return [damage for damage in damaged(root, paths, stages) if not put_back(root, damage)]


def renew(root: Path, object_: Path) -> str:
    """Take a damaged object out of DVC's cache, and put a sound one there if any file in the workspace or the remote has it.

    Returns what came of it, in words.
    """
    digest = object_.parent.name + object_.name
    _aside(root, object_)
    if copy := _copy_of(root, digest):
        draft = object_.with_name(f".{object_.name}.draft-{os.getpid()}")
        draft.write_bytes(copy) if isinstance(copy, bytes) else shutil.copyfile(copy, draft)
        draft.chmod(0o444)
        draft.replace(object_)
        return "put back from the workspace"
    if _fetched(root, digest):
        return "put back from the remote"
    return "no other copy of it is here: the stage that made it runs again"


def _copy_of(root: Path, digest: str) -> Path | bytes | None:
    """Return a file of the workspace, or the listing of a folder there, that has this hash."""
    memo = Memo(root, trusting=False)
    for _, out in outs(root):
        place = root / out["path"]
        if place.is_file() and out["md5"] == digest and memo.md5(place) == digest:
            return place
        if not place.is_dir():
            continue
        files = {str(path.relative_to(place)): path for path in sorted(place.rglob("*")) if path.is_file()}
        hashes = {name: memo.md5(path) for name, path in files.items()}
        if out["md5"] == digest == folder_md5(hashes):
            return _folder_listing(hashes)
        if name := next((name for name, found in hashes.items() if found == digest), None):
            return files[name]
    return None


def _fetched(root: Path, digest: str) -> bool:
    """Bring an object from the DVC remote, if there is one that has it, and see that it is sound."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(root)) as repo:
        if not repo.config["core"].get("remote"):
            return False
        try:
            repo.cloud.pull([HashInfo("md5", digest)])
        except (DvcException, OSError):
            return False
    place = cached(root, digest)
    return place.is_file() and md5(place) == digest.removesuffix(".dir")


def _aside(root: Path, place: Path) -> None:
    """Move damaged bytes to a folder of their own."""
    kept = root / DAMAGED / (place.relative_to(root) if place.is_relative_to(root) else Path("cache", *place.parts[-2:]))
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
    shutil.move(place, kept)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
