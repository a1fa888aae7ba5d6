"""Fetching a real model and real prompts: what comes in is checked, what is held out stays out."""

import json
import socket
import time

import pytest

from tasks.data.fetch import base, prompts
from tasks.runtime.params import UserError


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": f"story {n} " + "and so on " * 20}) + "\n" for n in range(50)))
    return path


def fetched(path, tmp_path, **params):
    out = tmp_path / "sets"
    spans = {"heldout_rows": "10:20", "perplexity_rows": "10:13"}
    prompts.main(prompts.Params(path=str(path), **(spans | params)), None, out=out, scores=tmp_path / "scores.json")
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in out.glob("*.jsonl")}


def test_texts_are_split_into_prompt_and_completion(stories, tmp_path):
    sets = fetched(stories, tmp_path, prompt_words=3, completion_words=5)
    assert {len(row["prompt"].split(" ")) for row in sets["sft"]} == {3}
    assert {len(row["completion"].split(" ")) for row in sets["sft"]} == {5}
    assert len(sets["perplexity"]) == 3


def test_heldout_rows_never_reach_training(stories, tmp_path):
    sets = fetched(stories, tmp_path, prompt_words=3)
    held = {row["prompt"] for row in sets["heldout"]}
    assert held == {f"story {n} and" for n in range(10, 20)}
    assert not held & {row["prompt"] for name in ("sft", "prompts") for row in sets[name]}


@pytest.mark.parametrize("span", ["20", "a:b", "30:10", "0:51", "-1:4"])
def test_a_span_outside_the_file_is_refused(stories, tmp_path, span):
    with pytest.raises(UserError, match="prompts.heldout_rows: .* must be first:end within the 50 rows"):
        fetched(stories, tmp_path, heldout_rows=span)


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        ({"prompt": "p"}, {"prompt": "p"}),
        (
            {"chosen": "\n\nHuman: h\n\nAssistant: so be it", "rejected": "\n\nHuman: h\n\nAssistant: so not"},
            {"prompt": "\n\nHuman: h\n\nAssistant:", "completion": "so be it", "chosen": "so be it", "rejected": "so not"},
        ),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, {"prompt": "p", "completion": "c", "chosen": "c", "rejected": "r"}),
        (
            {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]},
            {"prompt": "p", "completion": "c"},
        ),
    ],
)
def test_every_kind_of_record_gives_a_prompt(row, want):
    assert prompts.split(prompts.Source.model_validate(row), prompts.Params()) == want


def test_a_record_without_prompt_is_refused_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p"}\n{"answer": "a"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:2: .* needs one of text, prompt or messages"):
        fetched(path, tmp_path)


def test_quarantined_lines_are_kept_beside_the_sets(stories, tmp_path):
    stories.write_text(stories.read_text() + "{broken\n")
    (row,) = fetched(stories, tmp_path, on_bad_record="quarantine")["rejects"]
    assert row["line"] == 51
    assert json.loads((tmp_path / "scores.json").read_text()) == {"rows": 50, "rejected": 1, "too_long": 0, "sft": 40}


@pytest.fixture
def no_network(monkeypatch):
    """Every name look-up fails, as on a machine without a network."""

    def refuse(*_args, **_kwargs):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("locate", "remedy"),
    [
        (lambda: base.locate("some-org/some-model", "main"), "hf download some-org/some-model --local-dir DIR"),
        (lambda: prompts.load("some-org/some-set", "train", "stop", prompts.Rejects()), "--set prompts.path=FILE.jsonl"),
    ],
)
def test_without_a_network_a_hub_name_fails_soon_and_says_what_to_do(no_network, locate, remedy):
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        locate()
    assert remedy in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("path", ["no/such/folder", "./missing", "name"])
def test_what_is_neither_folder_nor_hub_name_is_refused(path):
    with pytest.raises(UserError, match="neither a folder nor a hub name"):
        base.locate(path, "main")


@pytest.mark.real
def test_a_real_model_is_taken_whole(real_data, tmp_path):
    params = base.Params(path=str(real_data / "models/stories260k"))
    base.main(params, None, out=tmp_path / "base", scores=tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["parameters"] == 260_032
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base").num_parameters() == 260_032


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a"}, "or both of chosen and rejected"),
        ({"chosen": "one thing", "rejected": "one other"}, "share no beginning that ends with 'Assistant:'; give it a prompt"),
        ({"chosen": "\n\nAssistant: yes", "rejected": "\n\nAssistant: "}, "is empty after the dialogue that they share"),
    ],
)
def test_dialogues_without_a_prompt_are_refused_or_set_aside_with_the_reason(row, said, tmp_path):
    path = tmp_path / "rows.jsonl"
    good = [{"prompt": f"p{n}", "completion": "c"} for n in range(3)]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*good, row]))
    spans = {"heldout_rows": "0:1", "perplexity_rows": "0:1"}
    with pytest.raises(UserError, match=rf"rows.jsonl:4: .*{said}"):
        fetched(path, tmp_path, **spans)
    sets = fetched(path, tmp_path, on_bad_record="quarantine", **spans)
    assert len(sets["rejects"]) == 1
    assert len(sets["prompts"]) == 2


def test_prompts_too_long_for_a_context_are_left_out_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p" * length, "completion": "c"}) + "\n" for length in range(1, 9)))
    sets = fetched(path, tmp_path, heldout_rows="0:1", perplexity_rows="0:1", prompt_chars=5)
    assert sorted(len(row["prompt"]) for row in sets["prompts"]) == [2, 3, 4, 5]
    assert json.loads((tmp_path / "scores.json").read_text())["too_long"] == 3


@pytest.mark.real
def test_the_whole_of_hh_rlhf_is_read_as_it_comes(real_data, tmp_path):
    """2,312 pairs of dialogues; four have an empty side."""
    sets = fetched(real_data / "data/preference/hh_harmless_test.jsonl", tmp_path, prompts=5000, on_bad_record="quarantine")
    assert len(sets["rejects"]) == 4
    assert len(sets["prompts"]) + len(sets["heldout"]) == 2308
    assert all(row["prompt"].startswith("\n\nHuman:") and row["prompt"].endswith("\n\nAssistant:") for row in sets["prompts"])
