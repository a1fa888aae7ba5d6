"""The reward model is Bradley-Terry: its loss, accuracy and margin are those of the textbook, and it learns what is better."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from tasks.runtime.models import encode_completion, encode_prompt, load_reward
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.train import reward
from tasks.train.reward import Params, encode
from tests.tiny import llama, save, word_tokenizer
from tests.train.stages import curve_of, published


def rewards(folder, prompt: str, answers: list[str]) -> list[float]:
    """The rewards of answers, each scored by itself without padding."""
    model, tokenizer = load_reward(folder)
    ids = [encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer) for answer in answers]
    with torch.no_grad():
        return [model.eval()(input_ids=torch.tensor([one])).logits.item() for one in ids]


def read(path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def done(run):
    return run(reward, epochs=4)


def test_scores_on_held_out_pairs_are_those_of_the_published_weights(done, world):
    """Every pair by itself, unpadded: as many right, and the same mean margin."""
    pairs = read(world / "preferences/test.jsonl")
    chosen = rewards(done / "model", "w1 w2", [pair["chosen"] for pair in pairs])
    rejected = rewards(done / "model", "w1 w2", [pair["rejected"] for pair in pairs])
    scores = json.loads((done / "scores.json").read_text())
    assert scores["heldout_accuracy"] == sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    assert scores["heldout_margin"] == pytest.approx(math.fsum(margins) / len(pairs), abs=1e-4)
    assert scores["heldout_pairs"] == len(pairs)


def test_the_loss_is_that_of_bradley_and_terry(run, world):
    """With one pair in the data the first loss is log(1 + exp(rejected - chosen)) of the untrained model."""
    write_records(world / "preferences/train.jsonl", [{"prompt": "w1", "chosen": "w2 w3", "rejected": "w4"}])
    out = run(reward, epochs=1, batch_size=1, learning_rate=1e-9)
    chosen, rejected = rewards(out / "model", "w1", ["w2 w3", "w4"])
    assert curve_of(out)[0]["loss"] == pytest.approx(math.log1p(math.exp(rejected - chosen)), abs=1e-5)


def test_it_learns_which_word_makes_an_answer_better(done):
    scores = json.loads((done / "scores.json").read_text())
    assert scores["heldout_accuracy"] == 1.0, "the better answer always starts with w39, the worse with w38"
    rows = curve_of(done)
    assert list(rows[0]) == ["step", "loss", "accuracy", "margin", "learning_rate", "tokens"]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.2), "an untrained model is near to tossing a coin"


def test_it_starts_from_the_policy_with_one_new_output(run, world):
    out = run(reward, learning_rate=1e-9, batch_size=48, epochs=1)
    policy, judge = load_file(world / "base/model.safetensors"), load_file(out / "model/model.safetensors")
    assert judge.pop("score.weight").shape == (1, 32)
    assert all(torch.allclose(weights, policy[name], atol=1e-6) for name, weights in judge.items())


def test_the_same_params_give_the_same_bytes(done, run):
    assert published(done) == published(run(reward, "again", epochs=4))


def test_the_new_output_is_drawn_by_the_seed(run):
    drawn = [
        load_file(run(reward, str(seed), seed=seed, learning_rate=1e-9) / "model/model.safetensors")["score.weight"]
        for seed in (0, 1)
    ]
    assert not torch.allclose(*drawn, atol=1e-4)


def test_long_answers_are_cut_and_pairs_that_then_read_the_same_left_out(tmp_path):
    same, long = "w1 w2", " ".join(["w3"] * 7)
    pairs = [(same, same), (f"{long} w4", f"{long} w5"), (long, "w6"), ("w7", "w8")]
    records = [{"prompt": "w0", "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    write_records(tmp_path / "train.jsonl", records)
    found = encode(word_tokenizer(), tmp_path / "train.jsonl", Params(max_length=8))
    assert [len(row["chosen_ids"]) for row in found.rows] == [8, 3]
    assert (found.cut, found.skipped) == (3, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "w1", "chosen": "w2"}\n', r"train.jsonl:1: not a Preference record: rejected: Field required"),
        ('{"prompt": "w1", "chosen": "w2", "rejected": null}\n', r"train.jsonl:1: .*rejected: Input should be a valid string"),
        ("", r"train.jsonl: holds no Preference record"),
        ('{"prompt": "w1", "chosen": "w2", "rejected": "w2"}\n', r"train.jsonl: no pair differs within reward.max_length: 32"),
    ],
)
def test_a_bad_pair_is_named_with_file_and_line(run, world, content, says):
    (world / "preferences/train.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        run(reward)


def test_a_base_that_lacks_weights_is_refused(run, world):
    from safetensors.torch import save_file

    state = {name: weights.clone() for name, weights in llama().state_dict().items()}
    del state["model.norm.weight"]
    save_file(state, world / "base/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="base: incomplete model folder: it has no weights for model.norm.weight"):
        run(reward)


def test_answers_longer_than_the_model_takes_are_refused(run, world):
    save(llama(context=16), world / "base")
    with pytest.raises(UserError, match="reward.max_length: 32 tokens, but the model in .* takes at most 16"):
        run(reward)
