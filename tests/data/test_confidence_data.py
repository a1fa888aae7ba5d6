"""From questions to rows with a confidence: labels by agreement, nothing cut, everything counted, nothing lost to a failure."""

import json
from collections import Counter

import pytest

from tasks.data import confidence_data
from tasks.data.clusters import by_match
from tasks.data.confidence_data import Params, Reflected, length, write_rows
from tasks.data.confidence_questions import read_questions, split
from tasks.data.summariser import Store
from tasks.runtime.confidence import Question, parse_response
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_tokenizer
from tasks.runtime.params import UserError, check_section
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tests.data.conftest import reply
from tests.tiny import WORDS, llama, save

SMALL = {"samples": 20, "max_new_tokens": 2, "generate_batch": 64, "threads": 1, "files": ["facts.jsonl", "noisy.jsonl"]}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [(entity, relation) for entity in WORDS[:20] for relation in ("w20", "w21")]
    facts = [{"prompt": f"{entity} {relation}", "completion": "w30", "entity": entity} for entity, relation in pairs]
    noisy = [{"prompt": f"w22 {word}", "answers": ["w30", "w31"], "probabilities": [0.7, 0.3]} for word in WORDS[:20]]
    write_records(tmp_path / "questions/facts.jsonl", [*facts, {**facts[0], "prompt": f" {facts[0]['prompt'].upper()}?"}])
    write_records(tmp_path / "questions/noisy.jsonl", noisy)
    save(llama(), tmp_path / "model")
    return tmp_path


def start(world, out="out", **changed):
    params = check_section(Params, {"confidence-data": {**SMALL, **changed}}, "params.yaml")
    places = {"model": world / "model", "questions": world / "questions", "out": world / out, "scores": world / "scores.json"}
    with Lease(world / "work", "test") as lease:
        confidence_data.main(params, Run("confidence-data", "identity", lease), **places)
    return json.loads((world / "scores.json").read_text())


def rows(path):
    return [json.loads(line) for line in path.open()]


def test_what_is_written_agrees_with_itself(world):
    scores = start(world)
    samples, clusters, sft = (rows(world / f"out/{name}.jsonl") for name in ("samples", "clusters", "sft"))
    assert scores["duplicates"] == 1
    sizes = Counter()
    for cluster in clusters:
        assert cluster["size"] == len(cluster["members"])
        sizes[cluster["qid"]] += cluster["size"]
    assert set(sizes.values()) == {20}
    assert len(sizes) == 60
    assert len(samples) == 1200
    texts = {(row["qid"], row["k"]): row["answer"] for row in samples}
    assert all(texts[cluster["qid"], cluster["members"][0]].split() == cluster["answer"].split() for cluster in clusters)
    for row in sft:
        said = parse_response(row["messages"][1]["content"])
        kept = next(c for c in clusters if c["qid"] == row["qid"] and c["answer"] == said.answer)
        assert said.confidence == row["c"] == int(10 * kept["size"] / 20 + 0.5)
        assert row["keep_rule"] == "gold_else_majority"
        assert row["summariser"] == "clusters"
        assert row["is_gold"] == kept["is_gold"]
    assert scores["rows"] == len(sft) == scores["sft"] - scores["dropped_by_keep_rule"] - scores["dropped_too_long"]
    assert scores["keep"] == "gold_else_majority"
    assert sum(scores["labels"].values()) == len(sft)


def test_an_entity_is_on_one_side_and_each_source_on_all(world):
    start(world)
    learned = {row["qid"] for row in rows(world / "out/sft.jsonl")}
    parts = {name: read_records(world / f"out/{name}.jsonl", Question) for name in ("rl", "valid", "test")}
    groups = {name: {question.group for question in part} for name, part in parts.items()}
    groups["sft"] = {row["messages"][0]["content"].split()[0] for row in rows(world / "out/sft.jsonl") if "facts" in row["qid"]}
    assert all(not groups[a] & groups[b] for a in groups for b in groups if a < b)
    assert not learned & {question.qid for part in parts.values() for question in part}
    for part in parts.values():
        assert {question.source for question in part} == {"facts", "noisy"}
    assert Counter(q.source for q in parts["rl"]) == {"facts": 12, "noisy": 6}


def test_right_answers_of_a_noisy_question_are_drawn_and_its_chances_told(world):
    questions, _ = read_questions([world / "questions/noisy.jsonl"], 500, 0)
    share = sum(question.answers.count("w30") for question in questions) / (500 * len(questions))
    assert share == pytest.approx(0.7, abs=0.02)
    assert questions[0].chances == {"w30": 0.7, "w31": 0.3}


def test_again_gives_the_same_bytes_and_another_seed_others(world):
    start(world, "a")
    start(world, "b")
    start(world, "c", seed=1)
    for path in (world / "a").iterdir():
        assert path.read_bytes() == (world / "b" / path.name).read_bytes()
        assert path.read_bytes() != (world / "c" / path.name).read_bytes()


@pytest.fixture
def reflected():
    """Four questions: one answered right at 80 of 100, one right in a minority, one never right, one never answered."""
    told = {
        "a": ["w1"] * 80 + ["w2"] * 16 + ["w3"] * 4,
        "b": ["w2"] * 60 + ["w1"] * 40,
        "c": ["w2"] * 55 + ["w3"] * 45,
        "d": [""] * 100,
    }
    return [
        Reflected(Question(qid=qid, prompt=f"w9 {qid}", answers=["w1"], source="s", group=qid), texts, texts, by_match(texts))
        for qid, texts in told.items()
    ]


def written(world, reflected, **changed):
    with Lease(world / "work", "test") as lease:
        run = Run("confidence-data", "identity", lease)
        return write_rows(Params(**changed), run, Store(world / "store.jsonl"), world / "model", reflected)


@pytest.mark.parametrize(
    ("rule", "labels", "dropped"),
    [
        ("gold", {"a": 8, "b": 4}, 2),
        ("majority", {"a": 8, "b": 6, "c": 6}, 1),
        ("gold_else_majority", {"a": 8, "b": 4, "c": 6}, 1),
    ],
)
def test_labels_and_what_each_keep_rule_drops(world, reflected, rule, labels, dropped):
    found, counts = written(world, reflected, keep=rule)
    assert {row["qid"]: row["c"] for row in found} == labels
    assert counts == {"dropped_by_keep_rule": dropped, "dropped_too_long": 0}


def test_the_rationale_names_the_others_that_have_a_share(world, reflected):
    found, _ = written(world, reflected)
    assert [row["messages"][1]["content"] for row in found[:2]] == [
        "Answer: w1\nSelf-reflection: torn between w1 and w2\nConfidence: 8",
        "Answer: w1\nSelf-reflection: torn between w1 and w2\nConfidence: 4",
    ]
    plain, _ = written(world, reflected, led=False)
    assert plain[0]["messages"][1]["content"] == "w1\nSelf-reflection: torn between w1 and w2\nConfidence: 8"
    texts = [f"w{n}" for n in range(10) for _ in range(10)]
    many, _ = written(world, [Reflected(reflected[0].question, texts, texts, by_match(texts))], most=2)
    assert parse_response(many[0]["messages"][1]["content"]).rationale == "torn between w1 and w0 and w2"
    bare, _ = written(world, reflected, summariser="none")
    assert bare[0]["messages"][1]["content"] == "Answer: w1\nConfidence: 8"


def test_a_row_too_long_is_dropped_and_counted_and_none_is_cut(world, reflected):
    tokenizer = load_tokenizer(world / "model")
    whole, _ = written(world, reflected)
    reflected[1].texts[60] = "w5 " * 30 + "Answer: w1"  # a member of the kept cluster that reasons at length
    kept, counts = written(world, reflected, max_length=max(length(tokenizer, row) for row in whole))
    assert [row["qid"] for row in kept] == ["a", "c"]
    assert counts == {"dropped_by_keep_rule": 1, "dropped_too_long": 1}
    assert all(parse_response(row["messages"][1]["content"]).confidence == row["c"] for row in kept)
    with pytest.raises(UserError, match="none of 4 questions is left to learn"):
        written(world, reflected, max_length=8)


def test_reasoning_goes_before_the_answer(world, reflected):
    texts = ["think w4 .\nAnswer: w1"] * 100
    one = Reflected(reflected[0].question, texts, ["w1"] * 100, by_match(["w1"] * 100))
    (row,), _ = written(world, [one])
    assert row["messages"][1]["content"] == "think w4 .\nAnswer: w1\nSelf-reflection: sure of w1\nConfidence: 10"


@pytest.mark.parametrize("fault", [(429, ""), (200, "no json"), 2.0], ids=["too many requests", "malformed", "time-out"])
def test_an_endpoint_that_fails_costs_neither_samples_nor_rationales(world, server, monkeypatch, fault):
    server.script = [*[reply("Reason: i am not sure")] * 4, fault]
    address = f"http://127.0.0.1:{server.server_port}/v1"
    asked = {"summariser": "endpoint", "endpoint": address, "endpoint_model": "judge", "parallel": 1, "retries": 0}
    with pytest.raises(UserError, match="1 times; run again when it answers, what is done is kept"):
        start(world, **asked, timeout=1.0 if isinstance(fault, float) else 30.0)
    assert not (world / "out").exists()
    assert len(server.seen) >= 5  # one more may be under way when the fault is seen
    server.script, server.seen = [reply("Reason: i am not sure")], []
    monkeypatch.setattr("tasks.runtime.generate.generate", None)  # sampling again would fail
    scores = start(world, **asked, timeout=30.0)
    assert len(server.seen) == scores["rows"] - 4
    assert scores["summariser"] == "endpoint"
    said = [parse_response(row["messages"][1]["content"]).rationale for row in rows(world / "out/sft.jsonl")]
    assert set(said) == {"i am not sure"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"parts": [0.5, 0.5, 0.5, 0.5]}, "sum to 1"),
        ({"summariser": "endpoint"}, "needs endpoint and endpoint_model"),
        ({"summariser": "model"}, "a model folder"),
        ({"keep": "all"}, "keep"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"temperature": 0.0}, "temperature: Input should be greater than 0"),
    ],
)
def test_params_that_make_no_sense_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"confidence-data": values}, "params.yaml")


def test_a_split_without_questions_and_a_question_without_an_answer_are_refused(world):
    questions, _ = read_questions([world / "questions/facts.jsonl"], 1, 0)
    with pytest.raises(UserError, match="no question is left for valid"):
        split(questions, [0.5, 0.3, 0.0, 0.2], 0)
    write_records(world / "bad.jsonl", [{"prompt": "w1"}])
    with pytest.raises(UserError, match="needs completion, or answers"):
        read_questions([world / "bad.jsonl"], 1, 0)
