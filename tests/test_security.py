"""What no line of the project may do, read off its syntax, and what no file of others gets it to do: SECURITY.md's promises."""

import ast
import json
import pickle
import subprocess
from pathlib import Path

import pytest

from flows.shelf import contents
from tasks.average.weights import Weights
from tasks.data.clusters import load_embedder
from tasks.data.fetch import base
from tasks.runtime.imports import ROOT
from tasks.runtime.models import load_causal, load_reward
from tasks.runtime.params import UserError
from tests.tiny import judge, llama, save

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
        if "yaml" in imported and name.startswith("yaml.") and "load" in name:
            assert name == "yaml.safe_load" or "Safe" in given.get("Loader", ""), f"{file}:{call.lineno}"
        if name in ("numpy.load", "np.load"):
            assert given.get("allow_pickle", "False") == "False", f"{file}:{call.lineno}"
        if name == "Environment":
            assert given.get("autoescape") == "True", f"{file}:{call.lineno}"
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


class Trap:
    """A pickle that writes a file when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def fetch(folder: Path) -> None:
    """Bring a model in as the stage `base` does, without its run."""
    params = base.Params(path=str(folder))
    base.main(params, None, out=folder.parent / "out", scores=folder.parent / "scores.json")


OPENERS = {
    "causal": load_causal,
    "reward": load_reward,
    "average": Weights,
    "base": fetch,
    "embedder": load_embedder,
    "publish": contents,
}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl", "model.safetensors"])
@pytest.mark.parametrize("opener", OPENERS)
def test_a_pickle_is_refused_before_it_is_opened_whatever_it_is_called(tmp_path, opener, name):
    if opener in ("publish", "embedder", "base") and name == "model.safetensors":
        pytest.skip("takes files as they are, or hands them to a loader of safetensors, which reads no pickle")
    folder = save(judge() if opener == "reward" else llama(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError):
        OPENERS[opener](folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("opener", ["causal", "average", "base"])
def test_a_pickle_beside_safetensors_is_left_alone(tmp_path, opener):
    folder = save(llama(), tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    OPENERS[opener](folder)
    assert not (tmp_path / "sprung").exists()
    assert not list((tmp_path / "out").glob("*.bin"))


@pytest.mark.parametrize("opener", ["causal", "average", "base"])
@pytest.mark.parametrize("place", ["../other/model.safetensors", "/other/model.safetensors"])
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path, opener, place):
    save(llama(), tmp_path / "other")
    folder = save(llama(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": place.replace("/other", f"{tmp_path}/other") if place.startswith("/") else place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        OPENERS[opener](folder)


def test_code_in_a_model_folder_is_not_run(tmp_path):
    folder = save(llama(), tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass C:\n    pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    (folder / "config.json").write_text(json.dumps(config))
    load_causal(folder)
    assert not (tmp_path / "sprung").exists()
