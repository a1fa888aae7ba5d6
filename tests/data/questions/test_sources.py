"""Every source gives the questions of its paper's format, by named fields; a row that lacks one is named."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from tasks.data.questions.formats import Choice, choice
from tasks.data.questions.sources import read_source
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records

ROWS = 5


def write_all(place: Path) -> dict[str, Path]:
    """Write five rows of every source below `place`; returns where each is."""
    numbers = range(ROWS)
    facts = [
        {
            "prompt": f"w{n} ?",
            "completion": f"w{n + 9}",
            "entity": f"w{n}",
            "relation": "home",
            "exposure": n,
            "asked": n % 2 == 0,
        }
        for n in numbers
    ]
    write_records(place / "atlas/facts.jsonl", facts)
    write_records(
        place / "open.jsonl", [{"question": f"w{n} ?", "answer": f"w{n + 9}", "relation": f"P{n % 2}"} for n in numbers]
    )
    for name in ("P1", "P2"):
        write_records(place / f"triples/facts/{name}.jsonl", [_triple(name, n) for n in (numbers if name == "P1" else [])])
        patterns = [{"pattern": "[Y] is of [X] ."}, {"pattern": "[X] w1 [Y] ."}, {"pattern": "[X] w2 [Y] ."}]
        write_records(place / f"triples/patterns/{name}.jsonl", patterns)
    told = "Please choose the correct answer to the question: w{} ?\n\nAnswer1: w5 Answer2: w6 Answer3: w7\n\nAnswer format: a/b"
    lines = json.dumps([{"instruction": told.format(n), "answer": f"answer{n % 3 + 1}"} for n in numbers])
    with gzip.open(place / "instructions.json.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    for part, count in (("dev", 6), ("test", ROWS)):
        (place / "mmlu" / part).mkdir(parents=True)
        with (place / f"mmlu/{part}/high_school_{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([f"{part}{n}, or not?", "w1", "w2", "w3", "w4", "ABCD"[n % 4]] for n in range(count))
    labels = ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]
    write_records(place / "claims.jsonl", [{"claim": f"w{n}", "evidence": "w1 w2", "label": labels[n % 3]} for n in numbers])
    context = [["title", ["w1 w2 .", " w3 ."]], ["other", ["w4 ."]]]
    hotpot = [{"_id": f"h{n}", "question": f"w{n} ?", "answer": "w3", "context": context, "level": "hard"} for n in numbers]
    (place / "hotpot.json").write_text(json.dumps(hotpot))
    files = {"atlas": "atlas", "open": "open.jsonl", "triples": "triples", "mmlu": "mmlu", "claims": "claims.jsonl"}
    files |= {"instructions": "instructions.json.gz", "hotpot": "hotpot.json"}
    return {source: place / file for source, file in files.items()}


def _triple(name: str, n: int) -> dict[str, str]:
    return {"sub_label": f"w{n}", "obj_label": f"w{n + 9}", "uuid": f"{name}-{n}"}


FIRST = {
    "atlas": ("w0 ?", ["w9"]),
    "open": ("Question: w0 ? Answer:", ["w9"]),
    "triples": ("w0 w1", ["w9"]),
    "instructions": ("w0 ?\nA. w5\nB. w6\nC. w7\nAnswer:", ["A"]),
    "claims": (
        "Evidence:w1 w2\nClaim:w0\nQuestion:Does the evidence support the claim?\nA: SUPPORTS.\nB: REFUTES.\n"
        "C: NOT ENOUGH INFO.\nAnswer:",
        ["A"],
    ),
    "hotpot": ("w1 w2 . w3 .\nw4 .\nQuestion: w0 ? \nAnswer:", ["w3"]),
}


@pytest.mark.parametrize("source", FIRST)
def test_the_prompt_is_that_of_the_paper(tmp_path, source):
    found = read_source(source, write_all(tmp_path)[source])
    assert len(found) == ROWS
    assert (found[0].prompt, found[0].answers) == FIRST[source]


def test_mmlu_shows_five_answered_examples_of_its_subject_and_then_asks(tmp_path):
    """The third question's answer is C: the letter, not what stands at another place of the row."""
    found = read_source("mmlu", write_all(tmp_path)["mmlu"])
    options = {"A": "w1", "B": "w2", "C": "w3", "D": "w4"}
    shots = [Choice(f"dev{n}, or not?", options, "ABCD"[n % 4]) for n in range(5)]
    third = Choice("test2, or not?", options, "C")
    assert found[2].prompt == choice(third, shots, "high school")
    assert found[2].prompt.startswith("The following are multiple choice questions (with answers) about high school.\n\ndev0")
    assert found[2].prompt.count("\nAnswer: ") == 5
    assert found[2].prompt.endswith("\nA. w1\nB. w2\nC. w3\nD. w4\nAnswer:")
    assert (found[2].answers, found[2].choices) == (["C"], ["A", "B", "C", "D"])


def test_true_or_false_is_a_choice_of_two(tmp_path):
    told = "Please answer the following question with true or false, question: do w1 w2?\n\nAnswer format: true/false"
    write_records(tmp_path / "boolq.jsonl", [{"instruction": told, "answer": "false"}])
    (found,) = read_source("instructions", tmp_path / "boolq.jsonl")
    assert (found.prompt, found.answers) == ("do w1 w2?\nA. true\nB. false\nAnswer:", ["B"])


def test_a_question_without_an_answer_is_one_nobody_can_answer(tmp_path):
    write_records(tmp_path / "selfaware.jsonl", [{"question": "w1 ?"}, {"question": "w2 ?", "answers": ["w1", "w2"]}])
    assert [question.answers for question in read_source("open", tmp_path / "selfaware.jsonl")] == [[], ["w1", "w2"]]


def test_atlas_asks_what_nobody_can_answer_in_the_test_alone(tmp_path):
    place = write_all(tmp_path)["atlas"]
    write_records(place / "unanswerable.jsonl", [{"prompt": "w1 w2 ?", "kind": "false premise", "name": "w1"}])
    *facts, nobody = read_source("atlas", place)
    assert len(facts) == ROWS
    assert (nobody.answers, nobody.set, nobody.training, nobody.exposure) == ([], "false premise", False, None)


@pytest.mark.parametrize(
    ("source", "rows", "said"),
    [
        ("open", [{"answer": "w1"}], "wrong.jsonl:1: has no field 'question', only answer"),
        (
            "claims",
            [{"claim": "c", "evidence": "e", "label": "SUPPORTS"}, {"claim": "c", "label": "REFUTES"}],
            "wrong.jsonl:2: has no",
        ),
        (
            "hotpot",
            [{"_id": "h", "question": "q", "answer": "", "context": []}],
            "wrong.jsonl:1: not a question: .*answer is empty",
        ),
        ("open", [], "holds no question"),
    ],
)
def test_what_a_row_lacks_is_named(tmp_path, source, rows, said):
    write_records(tmp_path / "wrong.jsonl", rows)
    with pytest.raises(UserError, match=said):
        read_source(source, tmp_path / "wrong.jsonl")


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match="none.jsonl: no such file"):
        read_source("open", tmp_path / "none.jsonl")
    (tmp_path / "bad.json").write_text("[{")
    with pytest.raises(UserError, match="bad.json: not JSON"):
        read_source("open", tmp_path / "bad.json")


@pytest.mark.real
@pytest.mark.parametrize(
    ("source", "file", "count"),
    [
        ("open", "qa/pararel_qa.json", 5584),
        ("open", "qa/truthful_qa.json", 817),
        ("instructions", "qa/arc_easy_train.json.gz", 2251),
        ("instructions", "qa/arc_challenge_test.json.gz", 1172),
        ("instructions", "qa/openbookqa_test.json.gz", 500),
        ("instructions", "qa/boolq_test.json.gz", 3270),
    ],
)
def test_real_files_are_read_whole(real_data, source, file, count):
    found = read_source(source, real_data / "data" / file)
    assert len(found) == count
    assert all(question.answers for question in found)
    if source == "instructions":
        assert {len(question.choices) for question in found} <= {2, 3, 4, 5}
        assert {question.answers[0] for question in found} >= {"A", "B"}


@pytest.mark.real
def test_real_triples_are_asked_with_their_subject_and_end_before_the_object(real_data):
    found = read_source("triples", real_data / "data/pararel")
    assert len({question.subject for question in found}) > 30
    assert not any("[X]" in question.prompt or "[Y]" in question.prompt for question in found)
