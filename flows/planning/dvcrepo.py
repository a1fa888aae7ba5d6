"""DVC's own reading of the pipeline, with params.yaml as it would be.

DVC opens params.yaml through the file system of its repository object. Given one that serves another text for that single
path, its resolver, graph and status work on params that are nowhere on disk. Imported late: it costs a third of a second.

DVC's resolver fills in the templates and DVC's objects say why a stage is stale; but of ten thousand stages an object each for
all they read and make takes half a minute. So one is made when it is asked for, and the ordinary case (flows.planning.declared,
flows.planning.lockfile, flows.planning.workspace) is settled without.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvc.dependency.param import MissingParamsError, ParamsDependency, read_param_file
from dvc.dvcfile import ProjectFile, load_file
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.stage import PipelineStage, create_stage
from dvc.stage.loader import StageLoader
from dvc.utils.serialize import parse_yaml

from flows.planning import lockfile
from flows.planning.declared import Declared, of, read
from flows.planning.links import Irregular, needs
from flows.planning.overlay import render
from flows.planning.studies import STUDIES
from flows.planning.workspace import Workspace
from tasks.runtime.params import PARAMS_FILE, UserError

PIPELINE = Path("dvc.yaml")
MEND = "correct it there"


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


class DvcStages(Mapping[str, PipelineStage]):
    """DVC's own objects, each made when it is first asked for."""

    def __init__(self, loaders: Mapping[str, StageLoader]) -> None:
        """Take for each stage the loader of its dvc.yaml."""
        self._loaders, self._made = loaders, dict[str, PipelineStage]()

    def __getitem__(self, name: str) -> PipelineStage:
        """Return one stage. Raises UserError for what DVC cannot make of it."""
        if name not in self._made:
            loader = self._loaders[name]
            self._made[name] = _read(lambda: loader[name], Path(loader.dvcfile.relpath), "correct it there")
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the order of dvc.yaml."""
        return iter(self._loaders)

    def __len__(self) -> int:
        """Return how many stages there are, made or not."""
        return len(self._loaders)


@dataclass(frozen=True)
class Pipeline:
    """dvc.yaml, and those of studies, as DVC understands them."""

    repo: Repo
    declared: Mapping[str, Declared]
    """What each stage declares, by name in the order of the file."""
    needs: Mapping[str, tuple[str, ...]]
    """For each stage the stages whose outs it reads directly, in the same order."""
    stages: Mapping[str, PipelineStage]
    """DVC's own objects."""
    locked: Mapping[str, Any]
    """What dvc.lock holds of each stage."""
    source: Mapping[str, Any]
    """dvc.yaml as written, before its templates are filled in."""

    def unchanged(self, names: Iterable[str]) -> set[str]:
        """Return those stages that are for certain as dvc.lock says: DVC would skip them, unless what they read changes first."""
        told = [self.declared[name] for name in names if name in self.locked]
        workspace = Workspace(self.repo)
        workspace.look(path for stage in told for path in (*stage.deps, *(out.path for out in stage.outs)))
        params = self._params(key for stage in told for key in stage.params)
        return {stage.name for stage in told if workspace.unchanged(stage, self.locked[stage.name], params)}

    def _params(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of keys of params.yaml as DVC reads them."""
        place = str(Path(self.repo.root_dir) / PARAMS_FILE)
        return dict(read_param_file(self.repo.fs, place, list(dict.fromkeys(keys)), flatten=True))

    def close(self) -> None:
        """Close DVC's own files; what was read stays."""
        self.repo.close()

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
        return path_of(self.repo, entry)


@contextmanager
def opened(root: Path, params: Mapping[str, Any], studies: Sequence[str] = ()) -> Iterator[Pipeline]:
    """Open a checkout (`open_pipeline`) for the time of a block."""
    with closing(open_pipeline(root, params, studies)) as pipeline:
        yield pipeline


def open_pipeline(root: Path, params: Mapping[str, Any], studies: Sequence[str] = ()) -> Pipeline:
    """Open the checkout at `root`, with the stages of the studies named, as if params.yaml held `params`; close it later.

    Raises UserError for whatever DVC cannot read, and for a study that names a stage as the pipeline or another study does.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)
    place = (root / PARAMS_FILE).resolve()
    try:
        repo = Repo(str(root), fs=ParamsInMemory(place, render(root, params)))
    except DvcException as error:
        raise UserError(f"{root}: not a DVC checkout: {error}; run `dvc init`, or go to the root of a Temper checkout") from None
    try:
        return _pipeline(repo, root, studies)
    except BaseException:
        repo.close()
        raise


def _pipeline(repo: Repo, root: Path, studies: Sequence[str]) -> Pipeline:
    files = [PIPELINE, *(STUDIES / study / PIPELINE for study in studies)]
    loaders: dict[str, StageLoader] = {}
    locked: dict[str, Any] = {}
    source: dict[str, Any] = {}
    for place in files:
        file = load_file(repo, str(root / place))
        noted = _locked(file, place)
        contents = _read(partial(_contents, file), place, MEND)
        loader = _read(partial(StageLoader, file, contents, {"stages": noted}), place, MEND)
        names = _read(partial(list, loader), place, MEND)
        if twice := sorted(set(names) & loaders.keys()):
            other = Path(loaders[twice[0]].dvcfile.path).relative_to(root.resolve())
            raise UserError(f"{place}: {other} has a stage '{twice[0]}' too; give it another name")
        loaders |= dict.fromkeys(names, loader)
        locked |= noted
        source |= contents.get("stages", {})
    stages = DvcStages(loaders)
    declared = {name: _declared(repo, stages, loader, name) for name, loader in loaders.items()}
    return Pipeline(repo, declared, _needs(repo, stages, declared, files), stages, locked, source)


def _contents(file: ProjectFile) -> dict[str, Any]:
    return dict(file.contents)


def _locked(file: ProjectFile, place: Path) -> Mapping[str, Any]:
    """Return what the dvc.lock beside a dvc.yaml says of each stage. Raises UserError for a damaged one."""
    lock = place.with_suffix(".lock")

    def whole(text: str) -> Mapping[str, Any]:
        return dict(file._lockfile.validate(parse_yaml(text, str(lock)), str(lock)).get("stages", {}))

    def load() -> Mapping[str, Any]:
        path = Path(file._lockfile.path)
        return lockfile.read(path.read_text(encoding="utf-8"), whole) if path.is_file() else {}

    return _read(load, lock, f"put it back with `git checkout {lock}`, or remove it to run all anew")


def _declared(repo: Repo, stages: DvcStages, loader: StageLoader, name: str) -> Declared:
    """Return what a stage declares, by its entry alone if that is an ordinary one."""
    file = str(Path(loader.dvcfile.path).relative_to(repo.root_dir))
    entry = _read(lambda: loader.resolver.resolve_one(name)[name], Path(file), MEND)
    found = read(name, entry, file)
    if found is not None and not any(_ignored(repo, out.path) for out in found.outs):
        return found
    stage = stages[name]
    return of(stage, repo.root_dir, _paths(repo, stage.deps), _paths(repo, stage.outs))


def _ignored(repo: Repo, path: str) -> bool:
    return bool(repo.dvcignore.is_ignored(repo.fs, f"{repo.root_dir}/{path}", ignore_subrepos=False))


def _needs(
    repo: Repo, stages: DvcStages, declared: Mapping[str, Declared], files: Iterable[Path]
) -> Mapping[str, tuple[str, ...]]:
    """Return which stage needs which. Raises UserError for whatever DVC finds wrong with the graph."""
    try:
        return needs(declared, [str(file) for file in files])
    except Irregular:
        index = Index(repo, stages=list(stages.values()))
        graph = _read(lambda: index.graph, Path(list(declared.values())[-1].file), MEND)
    rank = {name: place for place, name in enumerate(declared)}
    return {
        stage.name: tuple(sorted((other.name for other in graph.successors(stage)), key=rank.__getitem__))
        for stage in sorted(index.stages, key=lambda stage: rank[stage.name])
    }


def _paths(repo: Repo, entries: Iterable[Any]) -> list[tuple[Any, str]]:
    return [(entry, path_of(repo, entry)) for entry in entries]


def path_of(repo: Repo, entry: Any) -> str:
    """Return where a dep or out of DVC lies, relative to the root."""
    return str(repo.fs.relpath(entry.fs_path, repo.root_dir)) if entry.protocol == "local" else str(entry.def_path)


def _read(load: Callable[[], Any], file: Path, remedy: str) -> Any:
    try:
        return load()
    except DvcException as error:
        raise UserError(f"{file}: {_line(error)}; {remedy}") from None


def _line(error: DvcException) -> str:
    """Return DVC's message on one line, with what caused it."""
    said = str(error) if error.__cause__ is None else f"{error}: {error.__cause__}"
    return " ".join(said.split())
