"""Words are woven into proofs without touching a proof; what a model gets wrong is asked for again, and kept with its reason."""

import json
from collections import Counter

import pytest

from tasks.data import obt
from tasks.data.encoder import new_encoder
from tasks.data.informal import ask, comment_request, informal_request, judge_comments, judge_words
from tasks.data.obt import Params, by_model, main
from tasks.data.regions.theorems.source import load_theorems
from tasks.data.retriever import Params as Shape
from tasks.data.theorem_drafts import Params as Sizes
from tasks.data.theorem_drafts import drafts
from tasks.data.writers import EndpointWriter, ModelWriter, Request
from tasks.runtime.endpoint import Endpoint, Malformed, Store
from tasks.runtime.imports import ROOT
from tasks.runtime.lean.comments import code_lines, refusal, woven
from tasks.runtime.params import UserError, check_section
from tasks.runtime.progress import Progress
from tasks.runtime.records import read_records, write_records
from tasks.runtime.theorems import Aligned, Told
from tests.tiny import llama, save

OBT = ["idx", "Name", "Statement", "Proof", "Generated_informal_statement_and_proof", "Commented_proof", "File_path", "Commit"]
BARE = Told(
    idx=0,
    Name="two",
    Statement="theorem two (p q : Prop) (h : p ∧ q) : q ∧ p :=",
    Proof="theorem two (p q : Prop) (h : p ∧ q) : q ∧ p := by\n  constructor\n  · exact h.2\n  · exact h.1",
    File_path="A.lean",
    Commit="c",
)
WORDS = "If p and q then q and p.\n\nProve both parts."
GOOD = f"Here it is:\n```lean\n{BARE.Proof.replace('  constructor', '  -- both parts')}\n```".replace(
    "-- both parts", "-- both parts\n  constructor"
)


@pytest.fixture(scope="module")
def told():
    source = load_theorems(ROOT / "data/atlas")
    few = {family: source.families[family] for family in ("witness", "order_chain", "recurrence")}
    return drafts(source.model_copy(update={"families": few}), Sizes(train=4, valid=1, test=2, heldout=1))


class Watched:
    """A run of which only the counting matters."""

    def progress(self, total, unit, what=""):
        return Progress("obt", total, unit, what)


class Scripted:
    """A writer with one answer an attempt, which notes what it was asked."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers, self.seen = answers, []

    def write(self, requests):
        self.seen.append(list(requests))
        return [self.answers[min(request.attempt, len(self.answers) - 1)] for request in requests]


def start(tmp_path, told, **values):
    write_records(tmp_path / "theorems.jsonl", told)
    paths = {"theorems": tmp_path / "theorems.jsonl", "retriever": tmp_path / "retriever", "out": tmp_path / "obt"}
    main(Params(**values), Watched(), **paths, scores=tmp_path / "obt.json")
    return json.loads((tmp_path / "obt.json").read_text())


def test_records_have_the_fields_of_the_published_set_and_say_who_wrote_them(told, tmp_path):
    scores = start(tmp_path, told)
    records = read_records(tmp_path / "obt/records.jsonl", Aligned)
    assert [row.Name for row in records] == [row.Name for row in told]
    assert set(OBT) <= set(records[0].model_dump())
    assert {(row.informalised_by, row.commented_by) for row in records} == {("rules", "rules")}
    assert scores["accepted"] == scores["theorems"] == len(told)
    assert scores["new_comments"] == sum(row.steps for row in records) / len(records)
    for row in records:
        assert refusal(row.Proof, row.Commented_proof) is None
        assert row.Generated_informal_statement_and_proof == f"{row.Informal_statement}\n\n{row.Informal_proof}"


def test_the_same_theorems_give_the_same_bytes(told, tmp_path):
    start(tmp_path, told)
    first = (tmp_path / "obt/records.jsonl").read_bytes()
    start(tmp_path, told)
    assert (tmp_path / "obt/records.jsonl").read_bytes() == first


def test_what_no_rule_tells_is_set_aside_and_the_second_of_a_name_too(told, tmp_path):
    muddled = told[1].model_copy(update={"Name": "muddled", "told": told[1].told[:-1]})
    scores = start(tmp_path, [*told, BARE, muddled, told[0].model_copy(update={"Statement": told[0].Statement})])
    rejected = [json.loads(line) for line in (tmp_path / "obt/rejected.jsonl").read_text().splitlines()]
    assert [(row["Name"], row["reason"]) for row in rejected] == [
        ("two", "no rule tells it"),
        ("muddled", "no rule tells it"),
        (told[0].Name, "name taken"),
    ]
    assert scores["rejected"] == {"name taken": 1, "no rule tells it": 2}
    assert scores["accepted"] + len(rejected) == scores["theorems"]


def test_a_rule_keeps_the_columns():
    row = BARE.model_copy(update={"told": ["Prove both.", "The first.", ""]})
    assert woven(row.Statement, row.body, row.told).split("\n")[1:] == [
        "  -- Prove both.",
        "  constructor",
        "  -- The first.",
        "  · exact h.2",
        "  · exact h.1",
    ]


def test_nothing_to_align_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"none of 1 theorems could be aligned \(no rule tells it: 1\); set another obt.writer"):
        start(tmp_path, [BARE])


def test_a_malformed_line_stops_the_stage_or_is_set_aside(told, tmp_path):
    write_records(tmp_path / "theorems.jsonl", told)
    with (tmp_path / "theorems.jsonl").open("a") as file:
        file.write('{"Name": "half\n')
    paths = {"theorems": tmp_path / "theorems.jsonl", "retriever": tmp_path, "out": tmp_path / "obt"}
    with pytest.raises(UserError, match=rf"theorems.jsonl:{len(told) + 1}: not a Told record: not JSON"):
        main(Params(), Watched(), **paths, scores=tmp_path / "obt.json")
    main(Params(on_bad_record="quarantine"), Watched(), **paths, scores=tmp_path / "obt.json")
    assert json.loads((tmp_path / "obt.json").read_text())["malformed"] == 1
    assert json.loads((tmp_path / "obt/malformed.jsonl").read_text())["line"] == len(told) + 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (GOOD, ""),
        (GOOD.replace("```lean", "```lean4").replace("Here it is:\n", ""), ""),
        (GOOD.removesuffix("```"), "half a code block"),
        (GOOD[: GOOD.index("· exact h.1")], "half a code block"),
        (GOOD.replace("```lean", "").replace("```", ""), "no code block"),
        ("", "no code block"),
        (GOOD.replace("h.2", "h.1"), "code changed"),
        (GOOD.replace("  · exact h.1", "    · exact h.1"), "code changed"),
        (GOOD.replace("  · exact h.1", "  sorry"), "code changed"),
        (GOOD.replace("theorem two", "theorem one"), "code changed"),
        (GOOD.replace("-- both parts", "/- both parts"), "cut off"),
        (GOOD.replace("  -- both parts\n", ""), "no comment"),
        (GOOD.replace("-- both parts", "-- ---"), "no content"),
    ],
)
def test_a_commented_proof_is_the_proof_or_is_turned_away(reply, reason):
    code, found = judge_comments(BARE, reply)
    assert found == reason
    if not reason:
        assert code_lines(code) == code_lines(BARE.Proof)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (WORDS, ""),
        ("  \n ...", "empty"),
        ("x. " * 30, "repeats itself"),
        ("It is so.\n\n" + "word " * 300, "too long"),
        ("theorem two (p : Prop) : p := by\n\n  simp", "is Lean"),
        ("```lean\nx\n```\n\ny", "is Lean"),
        ("If p and q then q and p.", "has no proof"),
    ],
)
def test_words_that_cannot_be_a_theorem_and_its_proof_are_turned_away(text, reason):
    assert judge_words(text, 1000)[1] == reason


def test_failures_are_asked_again_up_to_a_cap():
    requests = {"a": Request("s", "a"), "b": Request("s", "b")}
    writer = Scripted("bad", "good", "good")
    found = ask(writer, requests, lambda name, reply: (reply, "" if reply == "good" and name == "a" else "not good"), 3)
    assert found.good == {"a": "good"}
    assert found.faults == {"b": ("not good", "good")}
    assert found.turned_away == Counter({"not good": 4})
    assert [[(one.prompt, one.attempt) for one in asked] for asked in writer.seen] == [
        [("a", 0), ("b", 0)],
        [("a", 1), ("b", 1)],
        [("b", 2)],
    ]
    assert found.asked == 5


def test_a_model_writes_the_words_and_places_the_comments(told, tmp_path):
    encoder = new_encoder(Shape(hidden_size=16, layers=1), 0)
    encoder.save(tmp_path / "retriever", {"stage": "retriever", "summary": "random"})

    class Model(Scripted):
        def write(self, requests):
            self.seen.append(list(requests))
            return [WORDS if "mathematician" in one.system else GOOD for one in requests]

    writer = Model()
    found = by_model(Params(examples=2, attempts=2), [BARE, *told], writer, tmp_path / "retriever")
    assert [(row.Name, row.informalised_by, row.commented_by) for row in found.aligned] == [("two", "scripted", "scripted")]
    assert found.aligned[0].Generated_informal_statement_and_proof == WORDS
    assert Counter(row["reason"] for row in found.rejected) == {"code changed": len(told)}
    (informal,) = writer.seen[0]
    assert informal.prompt.count("Lean4 version of theorem statement and proof:") == 3
    assert informal.prompt.startswith("<Examples>")
    assert informal.prompt.endswith("Natural language version of theorem statement and proof:")
    assert found.asked["words"] == {"asked": 1, "good": 1, "turned_away": {}}
    assert found.asked["comments"]["turned_away"] == {"code changed": 2 * len(told)}


def test_an_example_is_never_the_theorem_itself(told):
    """Its words would be given away."""
    request = informal_request(told[0], [row for row in told if row.Name != told[0].Name][:3])
    assert request.prompt.count(told[0].Proof) == 1
    assert str(told[0].Informal_proof) not in comment_request(told[0], WORDS).prompt


def test_a_further_attempt_is_another_request():
    assert Request("s", "p").told() != Request("s", "p", 1).told()
    assert Request("s", "p").told() == Request("s", "p", 0).told()


class Cut(Endpoint):
    """An endpoint that gives half a code block at first, and nothing that can be read before that."""

    def _reply(self, messages, temperature):
        TEMPERATURES.append(temperature)
        if len(TEMPERATURES) == 1:
            raise Malformed("half a reply")
        return GOOD if temperature else GOOD.removesuffix("```")


TEMPERATURES = []


def test_half_a_code_block_from_an_endpoint_is_asked_for_again_and_paid_once(tmp_path):
    endpoint = Cut("http://127.0.0.1:9", "model", sleep=lambda seconds: None)
    store = Store(tmp_path / "store.jsonl")
    writer = EndpointWriter(endpoint, store, 1, 0.7, lambda total, unit: Progress("obt", total, unit))
    requests = {"two": comment_request(BARE, WORDS)}
    found = ask(writer, requests, lambda name, reply: judge_comments(BARE, reply), 3)
    assert found.turned_away == {"half a code block": 1}
    assert refusal(BARE.Proof, found.good["two"]) is None
    assert TEMPERATURES == [0, 0, 0.7]
    again = ask(writer, requests, lambda name, reply: judge_comments(BARE, reply), 3)
    assert again.good == found.good
    assert len(TEMPERATURES) == 3


def test_a_local_model_is_asked_too(tmp_path):
    writer = ModelWriter(
        save(llama(context=256), tmp_path / "tiny"), 4, 2, 0.7, 0, lambda total, unit: Progress("o", total, unit)
    )
    replies = writer.write([Request("w1 w2", "w3"), Request("w1 w2", "w4")])
    assert writer.name == "tiny"
    assert replies == writer.write([Request("w1 w2", "w3"), Request("w1 w2", "w4")])
    assert len(replies) == 2
    found = ask(writer, {"two": comment_request(BARE, WORDS)}, lambda name, reply: judge_comments(BARE, reply), 1)
    assert found.faults["two"][0] == "no code block"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"writer": "endpoint"}, "needs endpoint and endpoint_model"),
        ({"writer": "model"}, "a model folder"),
        ({"writer": "me"}, "obt.writer"),
        ({"attempts": 0}, "obt.attempts"),
    ],
)
def test_params_that_make_no_sense_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_section(obt.Params, {"obt": values}, "params.yaml")
