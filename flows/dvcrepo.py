"""DVC's own reading of the pipeline, with params.yaml as it would be: nothing of dvc.yaml is interpreted a second time here.

DVC opens params.yaml through the file system of its repository object. Given one that serves another text for that single
path, its resolver, graph and status work on params that are nowhere on disk. Imported late: it costs a third of a second.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency.param import MissingParamsError, ParamsDependency
from dvc.dvcfile import ProjectFile, load_file
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.stage import PipelineStage, create_stage
from dvc.stage.loader import StageLoader

from flows.overlay import render
from flows.studies import STUDIES
from tasks.runtime.params import PARAMS_FILE, UserError

PIPELINE = Path("dvc.yaml")


class ParamsInMemory(LocalFileSystem):
    """The local file system, with one file whose text is given."""

    def __init__(self, place: Path, text: str) -> None:
        """Serve `text` for reads of `place`."""
        super().__init__()
        self._place, self._text = place, text

    def open(self, path: str, mode: str = "r", **options: Any) -> Any:
        """Open a file; the given text in place of the one file."""
        if mode == "r" and Path(path).resolve() == self._place:
            return io.StringIO(self._text)
        return super().open(path, mode=mode, **options)


@dataclass(frozen=True)
class Pipeline:
    """dvc.yaml, and that of a study, as DVC understands them: `stages` by name in their order, `index` with the graph."""

    repo: Repo
    stages: Mapping[str, PipelineStage]
    index: Index
    locked: Mapping[str, Any]
    """What dvc.lock holds of each stage."""
    source: Mapping[str, Any]
    """dvc.yaml as written, before its templates are filled in."""

    @staticmethod
    def is_params(dep: Any) -> bool:
        """Tell whether a dep of DVC is a list of params."""
        return isinstance(dep, ParamsDependency)

    def status(self, entry: Any, foreseen: Mapping[str, Any] | None = None) -> str | None:
        """Return DVC's word for how a dep or out differs from dvc.lock (`new`, `modified`, `deleted` ...), or None.

        An entry of `foreseen` stands for what will lie at its path.
        """
        if foreseen and (made := foreseen.get(self.path(entry))):
            return "modified" if entry.hash_info != made.hash_info else None
        try:
            return next(iter(entry.status().values()), None)
        except FileNotFoundError:
            return "being written just now"

    def restorable(self, name: str, foreseen: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the outs, by path, that DVC would put back from its cache instead of running the stage; None if it would run.

        Spends the stage: its deps then carry the hashes of now instead of those of dvc.lock.
        """
        stage = self.stages[name]
        if stage.always_changed or stage.is_callback or not (stage.deps and stage.outs):
            return None
        unchanged = not stage.cmd_changed and all(self._unchanged(dep, foreseen) for dep in stage.deps)
        if unchanged and all(out.hash_info for out in stage.outs):
            return self._cached(stage.outs)
        if not all(self._take(dep, foreseen) for dep in stage.deps):
            return None
        # The run cache has no public lookup that tells what it found.
        found = self.repo.stage_cache._load(stage)
        return self._cached(self._stage_of(found, stage.wdir).outs) if found else None

    def _stage_of(self, entry: Mapping[str, Any], wdir: str) -> PipelineStage:
        """Make a stage of an entry of the run cache, its outs with their hashes."""
        outs = [out["path"] for out in entry["outs"]]
        place = str(Path(self.repo.root_dir) / PIPELINE)
        stage = create_stage(PipelineStage, repo=self.repo, path=place, wdir=wdir, cmd=entry["cmd"], outs=outs)
        StageLoader.fill_from_lock(stage, entry)
        return stage

    def _unchanged(self, dep: Any, foreseen: Mapping[str, Any]) -> bool:
        return not dep.status() if self.is_params(dep) else self.status(dep, foreseen) is None

    def _take(self, dep: Any, foreseen: Mapping[str, Any]) -> bool:
        """Give a dep the hash it has now, or the one foreseen for it; False when there is nothing at its path."""
        if made := foreseen.get(self.path(dep)):
            dep.hash_info, dep.meta, dep.get_hash = made.hash_info, made.meta, lambda: made.hash_info
            return True
        try:
            dep.save()
        except (dep.DoesNotExistError, MissingParamsError):
            return False
        return True

    def _cached(self, outs: list[Any]) -> dict[str, Any] | None:
        return None if any(out.changed_cache() for out in outs) else {self.path(out): out for out in outs}

    def cached_text(self, entry: Any) -> str | None:
        """Return the text that a file had when dvc.lock was written, from DVC's cache; None when it is not there."""
        kept = Path(self.repo.cache.local.oid_to_path(entry.hash_info.value)) if entry.hash_info else None
        return kept.read_text(encoding="utf-8") if kept and kept.is_file() else None

    @property
    def remote(self) -> str | None:
        """Return the name of the DVC remote from which missing outs may be pulled, if one is set."""
        name: str | None = self.repo.config["core"].get("remote")
        return name

    def path(self, entry: Any) -> str:
        """Return where a dep or out of DVC lies, relative to the root."""
        return str(self.repo.fs.relpath(entry.fs_path, self.repo.root_dir)) if entry.protocol == "local" else str(entry.def_path)


@contextmanager
def opened(root: Path, params: Mapping[str, Any], study: str | None = None) -> Iterator[Pipeline]:
    """Open the checkout at `root`, with the stages of a study if one is named, as if params.yaml held `params`.

    Raises UserError for whatever DVC cannot read, and for a study that names a stage as the pipeline does.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)
    place = (root / PARAMS_FILE).resolve()
    try:
        repo = Repo(str(root), fs=ParamsInMemory(place, render(root, params)))
    except DvcException as error:
        raise UserError(f"{root}: not a DVC checkout: {error}; run `dvc init`, or go to the root of a Temper checkout") from None
    with repo:
        files = [PIPELINE] if study is None else [PIPELINE, STUDIES / study / PIPELINE]
        stages: dict[str, Any] = {}
        locked: dict[str, Any] = {}
        source: dict[str, Any] = {}
        for place in files:
            found = _stages(load_file(repo, str(root / place)), place)
            if twice := sorted(found[0].keys() & stages.keys()):
                raise UserError(f"{place}: {PIPELINE} has a stage '{twice[0]}' too; give it another name")
            for known, more in zip((stages, locked, source), found, strict=True):
                known.update(more)
        index = Index(repo, stages=list(stages.values()))
        _read(lambda: index.graph, files[-1], "correct it there")
        yield Pipeline(repo, stages, index, locked, source)


def _stages(file: ProjectFile, place: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the stages of one dvc.yaml by name, what its dvc.lock holds of them, and the text they are made from."""
    lock = place.with_suffix(".lock")
    locked = _read(lambda: file.lockfile_contents, lock, f"put it back with `git checkout {lock}`, or remove it to run all anew")
    stages = _read(lambda: dict(file.stages), place, "correct it there")
    return stages, locked.get("stages", {}), file.contents.get("stages", {})


def _read(load: Callable[[], Any], file: Path, remedy: str) -> Any:
    try:
        return load()
    except DvcException as error:
        raise UserError(f"{file}: {_line(error)}; {remedy}") from None


def _line(error: DvcException) -> str:
    """Return DVC's message on one line, with what caused it."""
    said = str(error) if error.__cause__ is None else f"{error}: {error.__cause__}"
    return " ".join(said.split())
