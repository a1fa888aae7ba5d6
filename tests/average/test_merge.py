"""Two folders into one: the right numbers in the right places, the same bytes every time, and a clear no to what does not fit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tasks.average.merge import PROVENANCE, hash_weights, merge, write_provenance
from tasks.average.recipe import partwise, uniform
from tasks.average.weights import Weights
from tasks.runtime.checkpoint import sha256
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish
from tests.average.conftest import TOKENIZER, tensors, write_folder
from tests.tiny import llama, save

BUFFER = "model.steps"


def run(pre: Path, post: Path, out: Path, w_pre: float = 0.3, **rest) -> dict[str, torch.Tensor]:
    """Merge two folders of three layers uniformly and read the result back with the library."""
    merge(Weights(pre), Weights(post), {out: uniform(w_pre, 3, **rest)})
    return read(out)


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        a.dtype == other[name].dtype and torch.equal(a, other[name]) for name, a in one.items()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_every_floating_tensor_is_averaged_and_the_buffer_copied(tmp_path, dtype):
    pre, post = tensors(0, dtype), tensors(1, dtype)
    merged = run(write_folder(tmp_path / "pre", pre), write_folder(tmp_path / "post", post), tmp_path / "out")
    assert merged.keys() == pre.keys()
    torch.testing.assert_close(merged.pop(BUFFER), pre[BUFFER], rtol=0, atol=0)
    for name, tensor in merged.items():
        reference = 0.3 * pre[name].double() + 0.7 * post[name].double()
        torch.testing.assert_close(
            tensor, reference.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7 if dtype.itemsize == 2 else 0
        )


def test_the_ends_are_the_inputs_bit_for_bit(pair, tmp_path):
    pre, post = pair
    assert same(run(pre, post, tmp_path / "one", 1.0), read(pre))
    assert same(run(pre, post, tmp_path / "zero", 0.0), read(post))


@pytest.mark.parametrize(("rest", "side"), [("pre", 0), ("post", 1)])
def test_rest_keeps_embeddings_final_norm_and_head_of_one_side(pair, tmp_path, rest, side):
    merged, kept = run(*pair, tmp_path / "out", rest=rest), read(pair[side])
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(merged[name], kept[name])
    inside = "model.layers.0.input_layernorm.weight"
    assert not torch.equal(merged[inside], kept[inside])


def test_one_part_alone_leaves_the_other_layers_as_they_are(pair, tmp_path):
    merge(*map(Weights, pair), {tmp_path / "out": partwise([0.5, 0.0, 0.0], [0, 1, 2, 3], "post")})
    merged, post = read(tmp_path / "out"), read(pair[1])
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, post[name])}
    assert changed == {name for name in post if ".layers.0." in name}


def test_equal_parts_give_the_bits_of_the_uniform_average(pair, tmp_path):
    merge(*map(Weights, pair), {tmp_path / "parts": partwise([0.3, 0.3, 0.3], [0, 1, 2, 3])})
    assert same(read(tmp_path / "parts"), run(*pair, tmp_path / "uniform"))


@pytest.mark.parametrize(("pre_shards", "post_shards"), [(1, 3), (3, 1), (3, 2)])
def test_sharding_changes_no_bit(pair, tmp_path, pre_shards, post_shards):
    pre = write_folder(tmp_path / "p", tensors(0), pre_shards)
    post = write_folder(tmp_path / "q", tensors(1), post_shards)
    assert same(run(pre, post, tmp_path / "sharded"), run(*pair, tmp_path / "whole"))
    assert {path.name for path in (tmp_path / "sharded").glob("model*")} == {path.name for path in pre.glob("model*")}


def test_the_same_inputs_give_the_same_bytes(pair, tmp_path):
    for out in ("first", "second"):
        run(*pair, tmp_path / out)
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("first", "second"))
    assert one == other


def test_spans_do_not_show(pair, tmp_path, monkeypatch):
    whole = run(*pair, tmp_path / "whole")
    monkeypatch.setattr("tasks.average.merge.SPAN", 7)
    assert same(run(*pair, tmp_path / "spans"), whole)


def test_empty_and_scalar_tensors_pass_through(tmp_path):
    extra = {"model.scale": torch.tensor(2.0), "model.none": torch.zeros(0, 4)}
    pre, post = (write_folder(tmp_path / str(seed), tensors(seed) | extra) for seed in range(2))
    merged = run(pre, post, tmp_path / "out")
    assert merged["model.scale"] == 2.0
    assert merged["model.none"].shape == (0, 4)


def test_the_distance_is_that_of_the_tensors(pair, tmp_path):
    squares = merge(*map(Weights, pair), {tmp_path / "out": uniform(0.3, 3)})
    pre, post = map(read, pair)
    assert squares.keys() == pre.keys() - {BUFFER}
    for name, found in squares.items():
        assert found.difference == pytest.approx(float(((post[name].double() - pre[name].double()) ** 2).sum()), rel=1e-5)
        assert found.pre == pytest.approx(float((pre[name].double() ** 2).sum()), rel=1e-5)


def test_a_real_class_loads_the_result_and_its_logits_are_those_of_the_averaged_weights(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pre, post = llama(0), llama(1)
    save(pre, tmp_path / "pre")
    save(post, tmp_path / "post")
    merge(Weights(tmp_path / "pre"), Weights(tmp_path / "post"), {tmp_path / "out": uniform(0.25, 2)})
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        for mine, other in zip(pre.parameters(), post.parameters(), strict=True):
            mine.copy_(0.25 * mine.double() + 0.75 * other.double())
    ids = torch.arange(4, 12)[None]
    torch.testing.assert_close(merged(ids).logits, pre(ids).logits, rtol=1e-5, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 44


@pytest.mark.real
def test_a_real_model_averaged_with_itself_is_itself_and_loads(real_data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stories = real_data / "models/stories260k"
    merge(Weights(stories), Weights(stories), {tmp_path / "out": uniform(0.3, 5)})
    assert same(read(tmp_path / "out"), read(stories))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() == 260_032
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 512


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_mergekit_gets_the_same_numbers_within_one_rounding(tmp_path, dtype):
    for seed, name in enumerate(("pre", "post")):
        save(llama(seed).to(dtype), tmp_path / name)
    recipe = [{"model": str(tmp_path / name), "parameters": {"weight": w}} for name, w in (("pre", 0.3), ("post", 0.7))]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"merge_method": "linear", "models": recipe, "dtype": str(dtype)[6:]}))
    tool = Path(sys.executable).with_name("mergekit-yaml")
    subprocess.run([tool, "recipe.yaml", "theirs", "--quiet"], cwd=tmp_path, check=True, capture_output=True)
    merge(Weights(tmp_path / "pre"), Weights(tmp_path / "post"), {tmp_path / "ours": uniform(0.3, 2)})
    ours, theirs, pre, post = (read(tmp_path / name) for name in ("ours", "theirs", "pre", "post"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # mergekit sums in the stored type: each of its own products and sums is one rounding of the larger operand
        size = torch.maximum(pre[name].double().abs(), post[name].double().abs())
        assert ((tensor.double() - theirs[name].double()).abs() <= 1.5 * torch.finfo(dtype).eps * size).all()


def replace(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Write the folder's tensors again with one changed, added or (None) left out."""
    content = read(folder)
    content.pop(name, None)
    save_file(content if tensor is None else content | {name: tensor}, folder / "model.safetensors")


HEAD, NORM = "lm_head.weight", "model.norm.weight"
HALF = {"dtype": torch.bfloat16}
BAD_PAIRS = {
    "a missing tensor": (NORM, None, r"model.norm.weight is in .*pre but not in .*post"),
    "an extra tensor": ("model.extra", torch.ones(2), r"model.extra is in .*post but not in .*pre"),
    "another shape": (HEAD, torch.ones(9, 40), r"lm_head.weight has shape \(7, 40\) in .*pre but \(9, 40\) in .*post"),
    "another dtype": (HEAD, torch.ones(7, 40), r"lm_head.weight is BF16 in .* but F32 in"),
    "another buffer": (BUFFER, torch.arange(1, 6), r"buffer model.steps \(I64\) differs"),
    "NaN": (NORM, torch.full((40,), torch.nan, **HALF), r"model.norm.weight holds NaN or infinity"),
    "infinity": (NORM, torch.full((40,), -torch.inf, **HALF), r"training diverged"),
    "an eight-bit float": (NORM, torch.ones(40).to(torch.float8_e4m3fn), r"F8_E4M3.*convert it to BF16"),
}


@pytest.mark.parametrize(("name", "tensor", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_models_that_do_not_fit_are_refused_by_name(pair, tmp_path, name, tensor, message):
    replace(pair[1], name, tensor)
    with pytest.raises(UserError, match=message):
        run(*pair, tmp_path / "out")


def test_other_architectures_are_refused(pair, tmp_path):
    (pair[1] / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 40, "rope_theta": 5e5}))
    with pytest.raises(UserError, match="rope_theta is None in .*pre but 500000.0 in"):
        run(*pair, tmp_path / "out")


def test_bookkeeping_in_the_config_may_differ(pair, tmp_path):
    (pair[1] / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 40, "use_cache": False}))
    assert run(*pair, tmp_path / "out").keys() == read(pair[0]).keys()


def test_a_config_that_another_release_wrote_otherwise_is_the_same_config(pair, tmp_path):
    for folder, rope in zip(
        pair, ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}), strict=True
    ):
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64} | rope))
    assert run(*pair, tmp_path / "out").keys() == read(pair[0]).keys()


def test_other_tokenizers_are_refused(pair, tmp_path):
    (pair[1] / "tokenizer.json").write_text(
        json.dumps(TOKENIZER | {"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "b": 1}}})
    )
    with pytest.raises(UserError, match=r"tokenizer.json differs"):
        run(*pair, tmp_path / "out")
    (pair[1] / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json differs"):
        run(*pair, tmp_path / "out")


def test_a_tokenizer_that_only_pads_differently_is_the_same_tokenizer(pair, tmp_path):
    (pair[1] / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"padding": {"strategy": "BatchLongest"}}))
    assert run(*pair, tmp_path / "out").keys() == read(pair[0]).keys()


@pytest.mark.parametrize("cut", [4, 40, 1000, -1])
def test_a_truncated_file_is_refused_by_name(pair, tmp_path, cut):
    file = pair[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"post/model.safetensors: .*(truncated|promises)"):
        run(*pair, tmp_path / "out")


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    pre, post = (write_folder(tmp_path / str(seed), tensors(seed), shards=3) for seed in range(2))
    shard = post / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors: holds"):
        run(pre, post, tmp_path / "out")


def test_an_index_that_promises_more_than_the_shards_hold_is_refused(tmp_path):
    folder = write_folder(tmp_path / "pre", tensors(0), shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.lost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match="names tensor model.lost"):
        Weights(folder)


def test_provenance_names_convention_boundaries_rest_and_both_inputs(pair, tmp_path):
    out, recipe = tmp_path / "out", partwise([0.2, 0.4], [0, 1, 3], "pre")
    pre, post = map(Weights, pair)
    merge(pre, post, {out: recipe})
    write_provenance(out, recipe, hash_weights(pre), hash_weights(post))
    facts = json.loads((out / PROVENANCE).read_text())
    assert facts["convention"] == "theta = w_pre * theta_pre + (1 - w_pre) * theta_post"
    assert facts["parts"] == [{"first": 0, "stop": 1, "w_pre": 0.2}, {"first": 1, "stop": 3, "w_pre": 0.4}]
    assert facts["rest"] == "pre"
    assert facts["sha256"]["post"] == {"model.safetensors": sha256(pair[1] / "model.safetensors")}
    card = (out / "README.md").read_text()
    assert all(text in card for text in ("layers 0 to 0: 0.2<br>layers 1 to 2: 0.4", "pre: 1", *facts["sha256"]["pre"].values()))


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path):
    pair = [write_folder(tmp_path / name, tensors(seed, width=400)) for seed, name in enumerate(("pre", "post"))]
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        (disk / "out").mkdir()
        (disk / "out/before").write_text("still here")
        with pytest.raises(OSError, match="disk full while publishing .*out; free some space"), publish(disk / "out") as draft:
            run(*pair, draft)
        assert [path.name for path in disk.iterdir()] == ["out"]
        assert (disk / "out/before").read_text() == "still here"
    finally:
        subprocess.run(["umount", disk], check=True)


MEASURE = """
import sys, threading, time
from pathlib import Path
from tasks.average.merge import merge
from tasks.average.recipe import uniform
from tasks.average.weights import Weights

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)

before, peak = anonymous(), [0]
threading.Thread(target=watch, daemon=True).start()
merge(Weights(Path(sys.argv[1])), Weights(Path(sys.argv[2])), {Path(sys.argv[3]): uniform(0.3, 3)})
print(peak[0] - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Two models of 100 MB: above the interpreter there are the buffers of two blocks, and no tensor."""
    big = {"model.layers.2.w": torch.ones(25_000_000, dtype=torch.bfloat16), "lm_head.weight": torch.ones(25_000_000).bfloat16()}
    pre, post = (write_folder(tmp_path / name, big) for name in ("pre", "post"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, pre, post, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    shutil.rmtree(tmp_path / "out")
    assert int(done.stdout) < 8_000
