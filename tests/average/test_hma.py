"""The stage: a merge and its ratios for every seed and mean, the bits of `average` where ratios are equal, plain refusals."""

import csv
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.average import average, hma
from tasks.average.hma import Params
from tasks.runtime.checkpoint import sha256
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal, save_model
from tasks.runtime.params import UserError, check_section
from tasks.runtime.records import Text, read_records, write_records
from tasks.runtime.stage import Run
from tests.average.world import deep, pair, right_answers
from tests.tiny import WORDS, save, word_tokenizer

SMALL = {"w_pre": [0.2, 0.6], "steps": 6, "check_every": 3, "batch": 32}
W_PRE = ("w_pre-0.2", "w_pre-0.6")


def write_answers(path: Path, answers: list[tuple[str, str]]) -> None:
    write_records(path, [{"prompt": prompt, "response": text, "reward": 1.0, "seed": 0} for prompt, text in answers])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model before RLHF, two seeds after it, and answers for each."""
    folder = tmp_path_factory.mktemp("world")
    pre, post = pair()
    save(pre, folder / "sft")
    answers = right_answers(pre, post, 3)
    for seed, model in ((0, post), (1, deep(5))):
        save(model, folder / f"raft/{seed}/iteration-1")
        write_answers(folder / f"proxy/{seed}.jsonl", answers[seed::2])
    return folder


def start(stage, place: Path, params, out: str = "merged", curve: bool = True, **inputs: Path) -> Path:
    """Run a stage in this process below `place`; return its out."""
    place.mkdir(exist_ok=True)
    hashes = {
        flag: {str(path.relative_to(given)): sha256(path) for path in given.rglob("*") if path.is_file()}
        for flag, given in inputs.items()
    }
    outs = {"out": place / out, "scores": place / f"{out}.json"} | ({"curve": place / f"{out}.csv"} if curve else {})
    with chdir(place), Lease(place / ".temper/work", params.section) as lease:
        stage.main(params, Run(params.section, "identity", lease, hashes), **inputs, **outs)
    return place / out


def fit(world: Path, place: Path, out: str = "merged", **changed) -> Path:
    """Run `hma` on the world, or on other inputs."""
    given = {"pre": world / "sft", "post": world / "raft", "proxy": world / "proxy"}
    inputs = given | {flag: changed.pop(flag) for flag in given if flag in changed}
    return start(hma, place, Params(**{**SMALL, **changed}), out, **inputs)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    return fit(world, tmp_path_factory.mktemp("finished"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ratios(folder: Path) -> dict:
    return json.loads((folder / "ratios.json").read_text())


def test_every_seed_and_mean_is_a_model_that_loads_named_as_average_does(finished):
    folders = sorted(str(path.parent.relative_to(finished)) for path in finished.rglob("model.safetensors"))
    assert folders == [f"{seed}/{name}" for seed in (0, 1) for name in W_PRE]
    assert load_causal(finished / "1/w_pre-0.6")[0].num_parameters() == deep(0).num_parameters()


def test_the_ratios_beside_it_say_all_there_is_to_know(world, finished):
    for seed in ("0", "1"):
        for name, w_pre in zip(W_PRE, SMALL["w_pre"], strict=True):
            facts = ratios(finished / seed / name)
            assert (facts["w_pre_mean"], facts["K"], facts["bounds"], facts["eps"]) == (w_pre, 3, [0, 1, 2, 3], 0.2)
            assert facts["rest"] == "mean"
            assert facts["convention"] == "theta = w_pre * theta_pre + (1 - w_pre) * theta_post"
            assert sum(facts["w"]) / 3 == pytest.approx(w_pre, abs=1e-6)
            assert facts["proxy_ll"] >= facts["proxy_ll_uniform"]
            assert facts["sha256"]["pre"] == {"model.safetensors": sha256(world / "sft/model.safetensors")}
            assert facts["sha256"]["post"] == {"model.safetensors": sha256(world / f"raft/{seed}/iteration-1/model.safetensors")}
            assert facts["sha256"]["proxy"] == sha256(world / f"proxy/{seed}.jsonl")
            told = json.loads((finished / seed / name / "averaging.json").read_text())
            assert [part["w_pre"] for part in told["parts"]] == facts["w"]
            assert (told["w_pre"], told["rest"]) == (w_pre, "mean")


def test_every_tensor_has_the_ratio_of_its_part_and_the_rest_the_mean(world, finished):
    pre, post, merged = (
        load_file(folder / "model.safetensors")
        for folder in (world / "sft", world / "raft/0/iteration-1", finished / "0/w_pre-0.6")
    )
    w = ratios(finished / "0/w_pre-0.6")["w"]
    assert len(set(w)) == 3
    for name, tensor in merged.items():
        ratio = w[int(name.split(".")[2])] if ".layers." in name else 0.6
        expected = ratio * pre[name].double() + (1 - ratio) * post[name].double()
        torch.testing.assert_close(tensor, expected.float(), rtol=0, atol=0)


def test_equal_ratios_give_the_bits_of_homogeneous_averaging(world, tmp_path):
    uniform = average.Params(w_pre=SMALL["w_pre"])
    plain = start(average, tmp_path / "ma", uniform, curve=False, pre=world / "sft", post=world / "raft")
    equal = fit(world, tmp_path / "hma", steps=0)
    for seed in (0, 1):
        for name in W_PRE:
            weights = f"{seed}/{name}/model.safetensors"
            assert (equal / weights).read_bytes() == (plain / weights).read_bytes()


def test_scores_and_curve_tell_the_search(finished):
    scores = json.loads(finished.with_suffix(".json").read_text())
    assert scores["bounds"] == [0, 1, 2, 3]
    both = [scores["seeds"][seed]["0.6"] for seed in ("0", "1")]
    assert scores["means"]["0.6"]["w"] == pytest.approx(
        [(one + other) / 2 for one, other in zip(*(b["w"] for b in both), strict=True)]
    )
    assert scores["means"]["0.6"]["gain"] == pytest.approx(sum(b["proxy_ll"] - b["proxy_ll_uniform"] for b in both) / 2)
    with finished.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["w_pre"], row["step"]) for row in rows[:4]] == [("0", "0.2", s) for s in "036"] + [
        ("0", "0.6", "0")
    ]
    assert list(rows[0])[-3:] == ["w_0", "w_1", "w_2"]
    assert 0 < float(rows[2]["movement"]) <= 0.61


def test_the_name_of_the_out_changes_nothing_and_nor_does_the_day(world, finished, tmp_path):
    other = fit(world, tmp_path, out="alpha-9_Layer2_block3")
    assert content(other) == content(finished)
    assert other.with_suffix(".json").read_bytes() == finished.with_suffix(".json").read_bytes()


def test_a_mean_that_is_done_is_not_searched_again_and_a_damaged_one_is(world, finished, tmp_path, monkeypatch):
    """What a killed run left is used, and the end is that of an uninterrupted one."""
    monkeypatch.chdir(tmp_path)
    posts = {"0": world / "raft/0/iteration-1", "1": world / "raft/1/iteration-1"}
    run = Run("hma", "identity", Lease(tmp_path, "hma"))
    task = hma.Task(Params(**SMALL), run, world / "sft", posts, world / "proxy", [0, 1, 2, 3])
    hma.fit(task, "0")
    whole = content(tmp_path / ".temper/checkpoints")
    times = {path: path.stat().st_mtime_ns for path in Path(".temper").rglob("step-*/complete")}
    (task.checkpoints("0").place(1) / "ratios.json").write_text("half")
    hma.fit(task, "0")
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {
        task.checkpoints("0").place(1) / "complete"
    }
    assert content(tmp_path / ".temper/checkpoints") == whole
    assert content(fit(world, tmp_path)) == content(finished)
    assert not list(Path(".temper/checkpoints").rglob("ratios.json")), "checkpoints go once the out is there"


def test_a_single_model_and_the_grid(world, tmp_path):
    write_answers(tmp_path / "proxy/proxy.jsonl", right_answers(*pair(), 1))
    changed = {"w_pre": [0.4], "bounds": [0, 1, 3], "grid_step": 0.2, "rest": "pre", "eps": 0.5}
    out = fit(world, tmp_path, post=world / "raft/0", proxy=tmp_path / "proxy", **changed)
    facts = ratios(out / "w_pre-0.4")
    assert (facts["K"], facts["bounds"], facts["rest"]) == (2, [0, 1, 3], "pre")
    assert facts["grid"]["proxy_ll"] >= facts["grid_reachable"]["proxy_ll"]
    assert max(facts["grid_reachable"]["w"]) * 0.5 < min(facts["grid_reachable"]["w"]) * 1.5
    merged, before = (load_file(folder / "model.safetensors") for folder in (out / "w_pre-0.4", world / "sft"))
    assert torch.equal(merged["lm_head.weight"], before["lm_head.weight"])
    assert list(json.loads(out.with_suffix(".json").read_text())["seeds"]) == ["all"]


@pytest.mark.parametrize("bounds", [[0, 1], [0, 2, 4], [1, 3], [0, 2, 2, 3], [0, 2, 1, 3], [], [0]])
def test_parts_that_do_not_cover_the_layers_are_refused(world, tmp_path, bounds):
    with pytest.raises(UserError, match="do not cover the 3 layers; they must rise from 0 to 3"):
        fit(world, tmp_path, bounds=bounds)


def test_models_with_different_tokenizers_are_refused_before_any_search(world, tmp_path):
    other = word_tokenizer([*WORDS[:-1], "other"])
    save_model(deep(1), other, tmp_path / "post", {"stage": "toy", "summary": "Another vocabulary."})
    with pytest.raises(UserError, match=r"tokenizer.json differs between .*sft and .*post"):
        fit(world, tmp_path, post=tmp_path / "post")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no ScoredAnswer record"), ('{"prompt": "w1", "response": "w2"}\n', "0.jsonl:1: .*reward: Field required")],
)
def test_an_empty_or_broken_proxy_set_is_refused_by_name(world, tmp_path, capfd, text, said):
    shutil.copytree(world / "proxy", tmp_path / "proxy")
    (tmp_path / "proxy/0.jsonl").write_text(text)
    with pytest.raises(UserError, match="seed 0 ended with 2"):
        fit(world, tmp_path, proxy=tmp_path / "proxy")
    assert re.search(said, capfd.readouterr().err)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"w_pre": [1.2]}, "hma.w_pre.0: Input should be less than or equal to 1"),
        ({"w_pre": [-0.1]}, "hma.w_pre.0: Input should be greater than or equal to 0"),
        ({"w_pre": [0.2, 0.2]}, "only once"),
        ({"parts": 0}, "hma.parts"),
        ({"rest": "both"}, "hma.rest"),
        ({"blocks": 3}, "hma.blocks: unknown key; known are eps"),
        ({"alpha": 0.2}, "hma.alpha: unknown key"),
    ],
)
def test_params_that_make_no_sense_are_refused_by_name(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"hma": values}, "params.yaml")


@pytest.mark.real
def test_a_real_llama_keeps_the_identities(real_data, tmp_path):
    """stories260k and a copy of it moved at random: the ends bit for bit, the mean, the floor, and a folder that loads."""
    stories = real_data / "models/stories260k"
    model, tokenizer = load_causal(stories)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn_like(parameter) if parameter.dim() > 1 else 0.0)
    save_model(model, tokenizer, tmp_path / "post", {"stage": "toy", "summary": "stories260k, moved."})
    texts = read_records(real_data / "data/text/tinystories_1000.jsonl", Text)[:6]
    words = [text.text.split() for text in texts]
    write_answers(tmp_path / "proxy/proxy.jsonl", [(" ".join(w[:8]), " ".join(w[8:40])) for w in words])
    given = {"pre": stories, "post": tmp_path / "post", "proxy": tmp_path / "proxy"}
    out = fit(tmp_path, tmp_path, **given, w_pre=[0.0, 0.5, 1.0], parts=5, steps=4)
    for name, folder in (("w_pre-0", tmp_path / "post"), ("w_pre-1", stories)):
        merged, side = load_file(out / name / "model.safetensors"), load_file(folder / "model.safetensors")
        assert all(torch.equal(merged[key], side[key]) for key in side)
    facts = ratios(out / "w_pre-0.5")
    assert sum(facts["w"]) / 5 == pytest.approx(0.5, abs=1e-6)
    assert len(set(facts["w"])) == 5
    assert facts["proxy_ll"] > facts["proxy_ll_uniform"]
    assert load_causal(out / "w_pre-0.5")[0].num_parameters() == 260_032
