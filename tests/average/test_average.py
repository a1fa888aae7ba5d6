"""The stage: every seed's last iteration, every w_pre of the sweep, honest scores; without PyTorch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tasks.average.arithmetic import Squares
from tasks.average.average import Params, distances
from tasks.runtime.checkpoint import sha256
from tasks.runtime.params import UserError, check_section
from tasks.runtime.posts import find_posts
from tests.average.conftest import tensors, write_folder


def start(folder, *flags, section=None):
    """Run the stage in `folder` with a params section; return the finished process."""
    (folder / "params.yaml").write_text(json.dumps({"average": {} if section is None else section}))
    command = [sys.executable, "-m", "tasks.average.average", "--out", "average", "--scores", "average.json", *flags]
    return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True)


@pytest.fixture
def raft(tmp_path):
    """A model before RLHF and two seeds of RAFT with a different number of iterations."""
    write_folder(tmp_path / "sft", tensors(0))
    for seed, last in ((0, 10), (1, 2)):
        for iteration in (1, 2, 9, last):
            folder = tmp_path / f"raft/{seed}/iteration-{iteration}"
            if iteration <= last and not folder.exists():
                write_folder(folder, tensors(100 * seed + iteration))
    return tmp_path


def test_each_seed_is_averaged_with_its_last_iteration(raft):
    done = start(raft, "--pre", "sft", "--post", "raft", section={"w_pre": [0.0, 0.2, 0.9]})
    assert done.returncode == 0, done.stderr
    for seed, last in ((0, 10), (1, 2)):
        assert {path.name for path in (raft / f"average/{seed}").iterdir()} == {"w_pre-0", "w_pre-0.2", "w_pre-0.9"}
        zero = load_file(raft / f"average/{seed}/w_pre-0/model.safetensors")
        post = tensors(100 * seed + last)
        assert all(torch.equal(zero[name], post[name]) for name in post)
        facts = json.loads((raft / f"average/{seed}/w_pre-0.2/averaging.json").read_text())
        assert facts["sha256"]["pre"]["model.safetensors"] == sha256(raft / "sft/model.safetensors")
        assert facts["sha256"]["post"]["model.safetensors"] == sha256(raft / f"raft/{seed}/iteration-{last}/model.safetensors")
    scores = json.loads((raft / "average.json").read_text())
    assert (scores["models"], scores["tensors"]) == (6, 9)
    assert scores["parameters"] == 2 * 7 * 40 + 40 + 3 * (40 * 40 + 40)
    assert list(scores["relative_distance"]) == ["layers 0 to 0", "layers 1 to 1", "layers 2 to 2", "rest", "all"]
    each = [scores["seeds"][seed]["rest"] for seed in ("0", "1")]
    assert scores["relative_distance"]["rest"] == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_single_model_after_rlhf_needs_no_seed(raft):
    done = start(raft, "--pre", "sft", "--post", "raft/1/iteration-2", section={"w_pre": [0.3], "rest": "post"})
    assert done.returncode == 0, done.stderr
    merged = load_file(raft / "average/w_pre-0.3/model.safetensors")
    assert torch.equal(merged["lm_head.weight"], tensors(102)["lm_head.weight"])
    assert json.loads((raft / "average.json").read_text())["seeds"] == {}


def test_one_part_is_averaged_alone(raft):
    section = {"w_pre": [0.5], "parts": 2, "only": 1}
    done = start(raft, "--pre", "sft", "--post", "raft/1/iteration-2", section=section)
    assert done.returncode == 0, done.stderr
    merged, post = load_file(raft / "average/w_pre-0.5/model.safetensors"), tensors(102)
    moved = {name for name in post if not torch.equal(merged[name], post[name])}
    assert moved == {name for name in post if ".layers.1." in name or ".layers.2." in name}
    assert list(json.loads((raft / "average.json").read_text())["relative_distance"])[:2] == ["layers 0 to 0", "layers 1 to 2"]


def test_two_runs_give_the_same_bytes(raft):
    def contents():
        assert start(raft, "--pre", "sft", "--post", "raft").returncode == 0
        files = [path for path in (raft / "average").rglob("*") if path.is_file()]
        return {str(path.relative_to(raft)): path.read_bytes() for path in [*files, raft / "average.json"]}

    assert contents() == contents()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"w_pre": [1.5]}, "average.w_pre.0"),
        ({"w_pre": []}, "average.w_pre"),
        ({"w_pre": [0.2, 0.2]}, "only once"),
        ({"rest": "both"}, "average.rest"),
        ({"only": 3}, "only must name one of 3 parts, 0 to 2, got 3"),
        ({"only": 0, "rest": "pre"}, "the rest stays as after RLHF"),
        ({"alpha": 0.2}, "unknown key; known are w_pre, rest"),
    ],
)
def test_wrong_params_are_refused_by_name(section, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"average": section}, "params.yaml")


def test_models_of_different_shapes_are_a_users_mistake_and_leave_no_out(raft):
    write_folder(raft / "other", tensors(0, width=48))
    done = start(raft, "--pre", "sft", "--post", "other")
    assert done.returncode == 2
    assert "shape (7, 40) in sft but (7, 48) in other" in done.stderr.splitlines()[-1]
    assert not (raft / "average").exists()


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    (tmp_path / "0/other").mkdir(parents=True)
    with pytest.raises(UserError, match="neither a model folder"):
        find_posts(tmp_path)


def test_seeds_come_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 2, 0):
        (tmp_path / f"{seed}/iteration-1").mkdir(parents=True)
    assert list(find_posts(tmp_path)) == ["0", "2", "10"]


def test_distances_are_relative_to_the_model_before_and_sum_over_the_tensors_of_a_part():
    squares = {f"model.layers.{layer}.w": Squares(9.0 * layer, 4.0) for layer in range(4)} | {
        "lm_head.weight": Squares(1.0, 100.0)
    }
    assert distances(squares) == {
        "layers 0 to 0": 0.0,
        "layers 1 to 1": 1.5,
        "layers 2 to 3": 2.37171,
        "rest": 0.1,
        "all": pytest.approx((55 / 116) ** 0.5, rel=1e-5),
    }


def test_the_stage_does_not_load_torch():
    code = "import sys, tasks.average.average; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
