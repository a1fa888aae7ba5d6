"""The entries of dvc.lock through DVC's own reader and writer. To read much of it quickly there is flows.planning.lockfile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
