"""dvc.yaml says the truth: deps list every project module that can change a stage's numbers; its flags and params exist."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.runtime.imports import ROOT, project_modules
from tasks.runtime.manifest import manifests
from tasks.runtime.params import check_section, params_of, read_yaml

TOGETHER, MANIFEST = "tasks.runtime.together", "tasks.runtime.manifest"
MODULE = r"(?:python -m|--) ([a-z_]+\.[\w.]+)"
FILES = [ROOT / "dvc.yaml", *sorted((ROOT / "flows/studies").glob("*/dvc.yaml"))]


def stages():
    """Yield (name, modules, body, command, item) of every stage of every file, a foreach unrolled over what it names."""
    for file in FILES:
        for name, body in YAML(typ="safe").load(file.read_text())["stages"].items():
            for item in ("base", "prompts") if name == "fetch" else ("",):
                done = body.get("do", body)
                cmd = done["cmd"] if isinstance(done["cmd"], str) else " ".join(done["cmd"])
                cmd = cmd.replace("${item}", item)
                found = re.findall(MODULE, cmd)
                modules = list(written(cmd).values()) if found == [MANIFEST] else [one for one in found if one != TOGETHER]
                yield name + item, modules, done, cmd, item


def written(cmd):
    """Return the module of every manifest of code that a command writes, by the manifest's path."""
    _, found, arguments = cmd.partition(f"-m {MANIFEST} ")
    return {str(path): module for path, module in manifests(arguments.split()).items()} if found else {}


CASES = [pytest.param(*case[1:], id=case[0]) for case in stages()]
RUN = [case for case in CASES if not written(case.values[2])]
MANIFESTS = {path: module for case in CASES for path, module in written(case.values[2]).items()}
"""Deps that stand for the code of a stage module."""


@pytest.mark.parametrize(("modules", "body", "cmd", "item"), CASES)
def test_deps_list_every_module_that_can_change_the_numbers(modules, body, cmd, item):
    listed = {dep.replace("${item}", item) for dep in body["deps"]}
    vouched = {MANIFESTS[dep] for dep in listed if dep in MANIFESTS}
    assert vouched <= set(modules), f"deps of {modules}: manifests of what it never runs: {sorted(vouched - set(modules))}"
    reached = {str(path.relative_to(ROOT)) for module in set(modules) - vouched for path in project_modules(module)}
    if "tasks/evaluate/page/frame.py" in reached:
        reached.add("tasks/evaluate/templates")  # what it fills in
    assert reached <= listed, f"add to deps of {modules}: {sorted(reached - listed)}"
    code = {dep for dep in listed if dep.endswith(".py")}
    if not item:  # the stages of a foreach share one list
        assert code <= reached, f"deps of {modules} that it never imports: {sorted(code - reached)}"


def test_every_manifest_of_code_is_an_out_of_the_stage_that_writes_it():
    for case in CASES:
        _, body, cmd, _ = case.values
        if outs := written(cmd):
            assert body["outs"] == list(outs)
    assert MANIFESTS, "no study reads its code through manifests; drop what tests them"


@pytest.mark.parametrize(("modules", "body", "cmd", "item"), RUN)
def test_the_section_in_params_yaml_is_valid(modules, body, cmd, item):
    for module in set(modules):
        params_type = params_of(module)
        check_section(params_type, read_yaml(ROOT / "params.yaml"), "params.yaml")
        assert params_type.section in [entry.replace("${item}", item) for entry in body["params"]]


@pytest.mark.parametrize(("modules", "body", "cmd", "item"), RUN)
def test_a_command_gives_the_flags_that_its_stage_takes(modules, body, cmd, item):
    """So that a stage late in a study does not fail on its command line after everything before it has run."""
    for module, words in commands(cmd):
        taken = inspect.signature(importlib.import_module(module).main).parameters.values()
        wanted = {word.name.replace("_", "-") for word in taken if word.kind is word.KEYWORD_ONLY}
        assert set(re.findall(r"(?<!\S)--([a-z][\w-]*)", words)) - {"set", "cell", "params"} == wanted, module


def commands(cmd):
    """Return (module, flags) of every stage module that a command runs."""
    if TOGETHER in cmd:
        return [part.split(" ", 1) for part in re.split(r"\s--\s+", cmd)[1:]]
    parts = re.split(MODULE, cmd)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(("modules", "body", "cmd", "item"), CASES)
def test_every_path_in_the_command_is_a_dep_or_an_out(modules, body, cmd, item):
    declared = str({key: body.get(key) for key in ("deps", "outs", "metrics", "plots")}).replace("${item}", item)
    undeclared = {"data/report/index.html", "data/scores"} if "tasks.evaluate.report" in modules else set()
    for path in re.findall(r"--(?!set|cell)\S+ (\S+)", cmd):
        assert path in declared or path in undeclared, path


@pytest.mark.parametrize("profile", sorted(Path(ROOT / "flows/profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_section_of_a_profile_is_known(profile):
    known = set(read_yaml(ROOT / "params.yaml"))
    assert set(read_yaml(profile)) <= known


def test_params_of_every_stage_import_without_torch():
    """`temper plan` checks all sections, so no stage module may load torch at its top."""
    modules = sorted({module for case in CASES for module in case.values[0]})
    code = (
        "import sys; from tasks.runtime.params import params_of\n"
        f"for module in {modules}: params_of(module)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_cell_of_a_matrix_has_a_name_of_its_own():
    """Cells of one section run side by side; without a name they would keep each other out by the stage's lease."""
    seen: dict[tuple[str, str], str] = {}
    for name, _, body, cmd, _ in stages():
        for module, cell in re.findall(rf"{MODULE}(?: --cell (\S+))?", cmd):
            assert cell or "matrix" not in body or module == TOGETHER, f"{name}: {module} needs --cell"
            assert seen.setdefault((module, cell), name) == name or not cell, f"{name} and {seen[module, cell]} are both {cell}"
