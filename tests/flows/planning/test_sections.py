"""Params are checked before anything starts: every fault of every stage in one message, and typos in section names too."""

import subprocess
import sys

import pytest

from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.planning.sections import check_sections
from tasks.runtime.imports import ROOT
from tasks.runtime.params import UserError

MODULE = """
from typing import ClassVar
from pydantic import Field
from tasks.runtime.params import StageParams

class Params(StageParams):
    section: ClassVar[str] = "{section}"
    epochs: int = Field(1, ge=1)
    path: str | None = None
"""
PIPELINE = """
stages:
  fetch:
    foreach: ${sources}
    do:
      cmd: python -m toys.${item} --out fetched-${item}
      params: ["${item}"]
      deps: ["toys/${item}.py"]
      outs: ["fetched-${item}"]
  one:
    cmd: python -m toys.one --base ${base.path} --out one.txt
    params: [one]
    deps: [src/a.txt]
    outs: [one.txt]
  two:
    cmd: python -m toys.two --out two.txt
    params: [two]
    deps: [one.txt]
    outs: [two.txt]
  shell:
    cmd: cat two.txt > three.txt
    deps: [two.txt]
    outs: [three.txt]
"""
PARAMS = "sources: []\nbase: {path: src/a.txt}\none: {epochs: 1}\ntwo: {epochs: 2}\n"


@pytest.fixture
def root(build, tmp_path, monkeypatch):
    root = build(tmp_path / "checkout", PIPELINE, PARAMS)
    (root / "toys").mkdir()
    (root / "flows/profiles").mkdir(parents=True)
    for name in ("base", "one", "two"):
        (root / f"toys/{name}.py").write_text(MODULE.replace("{section}", name))
    monkeypatch.syspath_prepend(root)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


def check(root, *sets, targets=("shell",), profile=None):
    params = effective_params(root, profile, sets)
    graph = load_graph(root, params)
    check_sections(graph, root, params, graph.select(targets), profile, sets)


def test_sound_params_pass(root):
    check(root)


def test_every_fault_is_named_with_its_source(root):
    with pytest.raises(UserError) as refusal:
        check(root, "one.epoch=3", "two.epochs=0")
    first, second = str(refusal.value).splitlines()
    assert first.startswith("params.yaml + --set one.epoch=3: one.epoch: unknown key; known are epochs, path")
    assert second.startswith("params.yaml + --set two.epochs=0: two.epochs: Input should be greater than or equal to 1")


def test_a_profile_is_named_as_the_source(root):
    (root / "flows/profiles/odd.yaml").write_text("# Odd.\none: {epochs: many}\n")
    with pytest.raises(UserError, match=r"^params\.yaml \+ flows/profiles/odd\.yaml: one\.epochs: .*'many'"):
        check(root, profile="odd")


def test_only_the_targets_and_what_they_need_are_checked(root):
    check(root, "two.epochs=0", targets=("one",))
    with pytest.raises(UserError, match=r"two\.epochs"):
        check(root, "two.epochs=0", targets=("two",))


def test_a_section_that_no_stage_reads_is_refused(root):
    (root / "params.yaml").write_text(PARAMS + "tow: {epochs: 2}\n")
    with pytest.raises(UserError, match="no stage reads section 'tow'; did you mean 'two'"):
        check(root)


def test_a_section_that_only_templates_read_has_its_keys_checked(root):
    with pytest.raises(UserError, match=r"base\.pth: unknown key; known are epochs, path"):
        check(root, "base.pth=src/b.txt")


def test_such_a_section_is_checked_in_full_once_its_stage_is_in_use(root):
    with pytest.raises(UserError, match=r"base\.epochs: Input should be greater"):
        check(root, "sources=[base]", "base.epochs=0", targets=("fetch",))


def test_a_missing_section_is_named(root):
    (root / "params.yaml").write_text(PARAMS.replace("two: {epochs: 2}\n", ""))
    with pytest.raises(UserError, match=r"params\.yaml: section 'two' is missing"):
        check(root)


def test_a_stage_whose_params_dvc_would_not_see_is_refused(root):
    (root / "dvc.yaml").write_text(PIPELINE.replace("params: [two]", "params: [one]"))
    with pytest.raises(UserError, match="stage 'two' reads section 'two' but its `params` lists only \\['one'\\]"):
        check(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_like_it", "nothing_like_it"),
        ("x = 1\ny = undefined\n", r"two\.py:2: NameError: name 'undefined'"),
        ("def main(:\n", "SyntaxError"),
        ("x = 1\n", "not a stage module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(root, text, said):
    (root / "toys/two.py").write_text(text)
    with pytest.raises(UserError, match=said):
        check(root)


def test_checking_every_section_of_the_project_loads_nothing_heavy():
    script = (
        "import sys; from pathlib import Path\n"
        "from flows.planning.graph import load_graph; from flows.planning.overlay import effective_params\n"
        "from tasks.runtime.params import params_of\n"
        "root = Path(sys.argv[1])\n"
        "for stage in load_graph(root, effective_params(root, 'local-model')).stages.values():\n"
        "    assert params_of(stage.module).section == stage.section\n"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'scipy', 'matplotlib', 'prefect'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
