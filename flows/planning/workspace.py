"""What lies in the checkout, hashed as DVC hashes it and remembers it, but for thousands of files at a time.

DVC's database of hashes is asked in one go where DVC asks once for each file. It answers one question: is a stage exactly as
dvc.lock says? Where the answer is not a plain yes, DVC's own objects are asked, which know the reason.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc_data.fsutils import _localfs_info
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

from flows.planning.declared import Declared

KNOWN = {"path", "hash", "md5", "size", "nfiles", "isexec"}
"""What dvc.lock says of an ordinary file or folder."""
Info = dict[str, Any]


class Workspace:
    """The files of a checkout. Each is looked at once: what changes afterwards is not seen."""

    def __init__(self, repo: Repo) -> None:
        """Know of nothing yet."""
        self._repo, self._root = repo, str(Path(repo.root_dir))
        self._hashes: dict[str, str | None] = {}
        self._folders: dict[str, list[str]] = {}

    def look(self, paths: Iterable[str]) -> None:
        """Hash all of `paths`, relative to the root, that have not been looked at."""
        infos: dict[str, Info] = {}
        folders: list[str] = []
        for path in dict.fromkeys(path for path in paths if path not in self._hashes):
            self._hashes[path] = None
            info = self._info(path)
            if info and info["type"] == "file":
                infos[path] = info
            elif info and info["type"] == "directory":
                folders.append(path)
        for path in folders:
            inside = dict(self._inside(path))
            self._folders[path] = list(inside)
            infos |= {each: info for each, info in inside.items() if not self._hashes.get(each)}
        self._hash(infos)
        for path in folders:
            self._hashes[path] = self._digest(path)

    def unchanged(self, stage: Declared, locked: Mapping[str, Any] | None, params: Mapping[str, Any]) -> bool:
        """Tell whether a stage is for certain what dvc.lock says of it, its outs in the cache, under `params`; look first."""
        if locked is None or stage.folder is None or stage.always_changed or stage.frozen or stage.lonely:
            return False
        noted = locked.get("params", {}).get("params.yaml", {})
        return (
            locked.get("cmd") == stage.cmd
            and all(key in noted and key in params and noted[key] == params[key] for key in stage.params)
            and all(self._is(path, stage.folder, locked.get("deps", ())) for path in stage.deps)
            and all(self._is(out.path, stage.folder, locked.get("outs", ())) for out in stage.outs)
            and all(self._kept(out.path) for out in stage.outs if out.cached)
        )

    def _is(self, path: str, folder: str, noted: Iterable[Mapping[str, Any]]) -> bool:
        """Tell whether what lies at `path` is what dvc.lock notes of it."""
        text = posixpath.relpath(path, folder) if folder != "." else path
        entry = next((entry for entry in noted if entry["path"] == text), None)
        return entry is not None and entry.keys() <= KNOWN and entry.get("hash") == "md5" and entry["md5"] == self._hashes[path]

    def _kept(self, path: str) -> bool:
        """Tell whether DVC's cache has what lies at `path`, and as DVC left it: nobody may write there."""
        files = [self._hashes[each] for each in self._folders.get(path, ())]
        return all(md5 is not None and self._protected(md5) for md5 in (self._hashes[path], *files))

    def _protected(self, md5: str) -> bool:
        cache = self._repo.cache.local
        try:
            return stat.S_IMODE(Path(cache.oid_to_path(md5)).stat().st_mode) == cache.CACHE_MODE
        except OSError:
            return False

    def _info(self, path: str) -> Info | None:
        try:
            return dict(_localfs_info(f"{self._root}/{path}"))
        except OSError:
            return None

    def _inside(self, folder: str) -> Iterator[tuple[str, Info]]:
        """Yield every file below a folder that DVC does not ignore; nothing where only DVC knows what to make of it."""
        for place, _, names in self._repo.dvcignore.walk(self._repo.fs, f"{self._root}/{folder}"):
            for name in names:
                path = f"{place}/{name}"[len(self._root) + 1 :]
                info = self._info(path)
                if info is None or info["type"] != "file" or name == ".dvcignore":
                    self._hashes[path] = None
                else:
                    yield path, info

    def _hash(self, infos: Mapping[str, Info]) -> None:
        """Take the hashes that DVC remembers, work out the others, and have it remember those too."""
        state, fs = self._repo.state, self._repo.fs
        full = {f"{self._root}/{path}": info for path, info in infos.items()}
        fresh = []
        for place, _, known in state.get_many(full, fs, full):
            path = place[len(self._root) + 1 :]
            if known is None or known.name != "md5":
                try:
                    _, known = hash_file(place, fs, "md5", None, info=full[place])
                except OSError:
                    continue
                fresh.append((place, known, full[place]))
            self._hashes[path] = known.value
        state.save_many(fresh, fs)

    def _digest(self, folder: str) -> str | None:
        """Return the hash of a folder by those of its files; None where one of them has none."""
        tree = Tree()
        for path in self._folders[folder]:
            if (md5 := self._hashes.get(path)) is None:
                return None
            tree.add(tuple(path[len(folder) + 1 :].split("/")), Meta(), HashInfo("md5", md5))
        if not self._folders[folder]:
            return None
        # As Tree.digest does it, which looks through all trees that it has ever digested.
        return hashlib.md5(tree.as_bytes(), usedforsecurity=False).hexdigest() + ".dir"
