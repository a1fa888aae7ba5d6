"""Manifests of code: they say what can change a stage's numbers, and nothing else."""

from pathlib import Path

import pytest

from tasks.runtime.checkpoint import sha256
from tasks.runtime.imports import ROOT, project_modules
from tasks.runtime.manifest import code_of, manifests, read, render
from tasks.runtime.params import UserError

MODULE = "tasks.average.average"


def test_it_holds_the_hash_of_every_module_that_the_stage_reaches():
    code = code_of(MODULE, ROOT)
    assert list(code) == [str(path.relative_to(ROOT)) for path in project_modules(MODULE)]
    assert code["tasks/average/average.py"] == sha256(ROOT / "tasks/average/average.py")
    assert not {"tasks/runtime/stage.py", "tasks/runtime/manifest.py"} & code.keys()


def test_it_reads_as_written():
    code = code_of(MODULE, ROOT)
    assert read(render(code)) == code


def test_a_command_names_its_manifests():
    assert manifests(["--out", "a/b", "tasks.x", "tasks.y.z"]) == {
        Path("a/b/tasks.x.json"): "tasks.x",
        Path("a/b/tasks.y.z.json"): "tasks.y.z",
    }


def test_a_mistyped_module_is_refused():
    with pytest.raises(UserError, match=r"no module tasks\.average\.averag in "):
        code_of("tasks.average.averag", ROOT)
