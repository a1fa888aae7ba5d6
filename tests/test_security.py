"""What no line of the project may do, read off its syntax: the promises of SECURITY.md that hold everywhere or nowhere."""

import ast
import subprocess

import pytest

from tasks.runtime.imports import ROOT

FILES = sorted([*(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")])
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
SHELL = {"flows/report.py"}
"""Runs the command of a stage, which is a shell command by DVC's definition."""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_a_module_runs_no_code_it_was_given(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not imported & FORBIDDEN_IMPORTS
    for call in calls(tree):
        name, given = name_of(call), keywords(call)
        assert name not in ("eval", "exec", "os.system"), f"{file}:{call.lineno}"
        assert given.get("trust_remote_code", "False") == "False", f"{file}:{call.lineno}"
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"{file}:{call.lineno}"
        if given.get("shell") == "True":
            assert str(file.relative_to(ROOT)) in SHELL, f"{file}:{call.lineno}"
        if name == "YAML":
            assert given.get("typ", "'rt'") in ("'safe'", "'rt'"), f"{file}:{call.lineno}"


def test_no_file_in_git_looks_like_a_secret():
    patterns = [
        r"AKIA[0-9A-Z]{16}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"ghp_[A-Za-z0-9]{30}",
        r"xox[bp]-[0-9]",
        r"hf_[A-Za-z]{30}",
    ]
    command = ["git", "grep", "-nE", "|".join(patterns), "--", ".", ":!tests/test_security.py"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""
