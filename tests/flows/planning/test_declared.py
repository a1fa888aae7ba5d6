"""The quick readings of dvc.yaml, dvc.lock and the workspace say what DVC's own objects say, in time linear in the stages."""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.utils.serialize import dumps_yaml, parse_yaml
from hypothesis import given
from hypothesis import strategies as st

from flows.planning import lockfile
from flows.planning.declared import of, read
from flows.planning.dvcrepo import _paths, opened
from flows.planning.graph import Places, graph_of, overlap
from flows.planning.overlay import effective_params
from flows.planning.plan import plan
from flows.planning.studies import study_names
from tasks.runtime.imports import ROOT
from tests.flows.many import finish, make

ODD = """
vars: [{place: out}]
stages:
  plain: {cmd: ["true", "echo a"], deps: [src/a.txt, src/../src/b.txt], outs: [out/plain, {out/kept: {persist: true}}], desc: a}
  below: {wdir: src, cmd: ls, deps: [../out/plain/x, a.txt], outs: [made.txt], meta: {worker: gpu}}
  elsewhere: {cmd: ls, deps: ["s3://bucket/key", /etc/hostname], outs: ["${place}/e"], frozen: true}
  drawn: {cmd: ls, deps: [out/kept], plots: [{out/curve.csv: {x: step, cache: false}}, out/other.csv], always_changed: true}
  other: {cmd: ls, params: [count, {more.yaml: [one]}], metrics: [{scores.json: {cache: false, desc: of it}}], deps: [out]}
  alone: {cmd: ls}
"""


def test_the_project_reads_as_dvc_reads_it_with_all_studies_side_by_side():
    same_as_dvc(ROOT, study_names(ROOT))


def test_odd_stages_read_as_dvc_reads_them(build, tmp_path):
    root = build(tmp_path / "odd", ODD, "count: {lines: 1}\n")
    (root / "more.yaml").write_text("one: 1\n")
    graph = same_as_dvc(root)
    assert graph.needs["below"] == ("plain",)
    assert graph.needs["other"] == ("plain", "elsewhere", "drawn")
    assert graph.stages["below"].outs[0].path == "src/made.txt"


def same_as_dvc(root: Path, studies: Sequence[str] = ()):
    """Compare stages and edges with those of DVC's own objects; return the graph."""
    with opened(root, effective_params(root, None), studies) as pipeline:
        for name, found in pipeline.declared.items():
            stage = pipeline.stages[name]
            told = of(stage, pipeline.repo.root_dir, _paths(pipeline.repo, stage.deps), _paths(pipeline.repo, stage.outs))
            assert replace(found, folder=None) == told
        edges = Index(pipeline.repo, stages=list(pipeline.stages.values())).graph
        for stage in edges:
            assert set(pipeline.needs[stage.name]) == {other.name for other in edges.successors(stage)}
        return graph_of(pipeline, root, studies)


@pytest.mark.parametrize(
    "entry",
    [
        {"cmd": "x", "outs": ["../x"]},
        {"cmd": "x", "deps": ["s3://bucket/key"]},
        {"cmd": "x", "deps": ["/etc/hostname"]},
        {"cmd": "x", "outs": [{"a": {"remote": "store"}}]},
        {"cmd": "x", "outs": ["a", "a"]},
        {"cmd": "x", "outs": ["sub/dvc.yaml"]},
        {"cmd": "x", "params": [{"more.yaml": ["one"]}]},
        {"cmd": "x", "wdir": "..", "deps": ["a"]},
        {"cmd": "x", "unheard_of": 1},
    ],
    ids=str,
)
def test_what_is_not_ordinary_is_left_to_dvc(entry):
    assert read("stage", entry, "dvc.yaml") is None


PATHS = st.from_regex(r"[a-c]{1,2}(/[a-c]{1,2}){0,2}", fullmatch=True)


@given(st.lists(PATHS, max_size=6), PATHS)
def test_places_overlap_as_single_paths_do(paths, path):
    assert (path in Places(paths)) == any(overlap(path, other) for other in paths)


WORDS = st.text(st.sampled_from("ab01._-/@ :#'\"{}[]>|&*!%=,\n"), min_size=1, max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), WORDS)
FILES = st.builds(
    lambda path, md5, size, more: {"path": path, "hash": "md5", "md5": md5, "size": size, **more},
    st.one_of(PATHS, WORDS, st.sampled_from(["null", "1.5", ".5", "a.b", "on", "data/1e3"])),
    st.from_regex(r"[0-9a-f]{32}(\.dir)?|[0-9]{32}|[0-9]{5}e[0-9]{26}", fullmatch=True),
    st.integers(0, 10**12),
    st.sampled_from([{}, {"nfiles": 3}, {"isexec": True}]),
)
ENTRIES = st.fixed_dictionaries(
    {"cmd": st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=2), st.just("python -m tasks.x --set a=b " * 5 + "--out c"))},
    optional={
        "deps": st.lists(FILES, min_size=1, max_size=3),
        "params": st.just({"params.yaml": {"a": {"b": 1e-05, "c": [True, None, "yes"]}}}) | st.dictionaries(WORDS, SCALARS),
        "outs": st.lists(FILES, min_size=1, max_size=3),
    },
)
NAMES = st.one_of(
    st.from_regex(r"[a-z]{1,3}(@[a-z0-9-]{1,3})?", fullmatch=True), st.sampled_from(["null", "1", "1e3", "on", "a b"])
)


@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=4))
def test_a_lock_is_read_as_dvc_reads_what_dvc_writes(stages):
    text = dumps_yaml({"schema": "2.0", "stages": stages})
    assert same(lockfile.read(text, by_dvc), by_dvc(text))


def by_dvc(text: str):
    return parse_yaml(text, "dvc.lock")["stages"]


def same(one, other) -> bool:
    """Compare values and their types: YAML tells 1 from 1.0 and from true."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("damage", ["<<<<<<< HEAD\n", "  two\n", "    deps: 3\n", "  one:\n    cmd: again x\n"])
def test_a_damaged_lock_is_given_to_dvc_whole(damage):
    text = f"schema: '2.0'\nstages:\n  one:\n    cmd: echo one\n{damage}"
    asked = []

    def load(text: str):
        asked.append(text)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        lockfile.read(text, load)
    assert asked[-1] == text


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> Path:
    """A hundred stages, all of them up to date."""
    root = make(tmp_path_factory.mktemp("many") / "hundred", 100)
    finish(root)
    return root


def test_what_is_unchanged_is_what_dvc_calls_unchanged(hundred, tmp_path):
    root = Path(shutil.copytree(hundred, tmp_path / "copy"))
    with chdir(root), Repo() as repo:
        assert repo.status() == {}
    (root / "data/models/m1-0/config.json").write_text("other\n")
    (root / "data/models/m2-0/more.json").write_text("more\n")
    (root / "data/scores/evaluate-m3-0.json").unlink()
    with chdir(root), Repo() as repo:
        changed = set(repo.status())
    assert {"train@m1-0", "train@m2-0", "evaluate@m3-0", "gather"} <= changed
    with opened(root, effective_params(root, None)) as pipeline:
        assert set(pipeline.declared) - pipeline.unchanged(pipeline.declared) == changed


def test_an_out_that_the_cache_has_lost_or_may_have_changed_is_not_taken_for_granted(hundred, tmp_path):
    root = Path(shutil.copytree(hundred, tmp_path / "copy"))
    objects = sorted((root / ".dvc/cache/files/md5").glob("*/*"))
    objects[0].unlink()
    with opened(root, effective_params(root, None)) as pipeline:
        assert len(pipeline.unchanged(pipeline.declared)) < len(pipeline.declared)


def stale(root: Path) -> set[str]:
    params = effective_params(root, None)
    with opened(root, params) as pipeline:
        graph = graph_of(pipeline, root)
    return {step.stage.name for step in plan(graph, root, params, graph.stages) if step.stale}


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions that `work` takes: the same on every machine, however busy."""
    count = 0

    def look(frame, event: str, arg) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("done", [False, True], ids=["never run", "up to date"])
def test_the_work_of_a_plan_grows_no_faster_than_the_number_of_stages(tmp_path, done):
    sizes, work = (100, 300, 500), []
    for size in sizes:
        root = make(tmp_path / str(size), size)
        if done:
            finish(root)
        stale(root)
        work.append(calls(lambda root=root: stale(root)))
    assert work[2] - work[1] < 1.15 * (work[1] - work[0])
