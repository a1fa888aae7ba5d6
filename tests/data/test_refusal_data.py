"""What a model knows splits the questions in two; every variant's rows follow from that split, and nothing is lost on the way."""

import json
import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from tasks.data import refusal_data
from tasks.data.questions.sources import SOURCES, read_source
from tasks.data.refusal_data import Identified, Params, check_answers, check_both, drawn, entropy, identify, rows, split, unsure
from tasks.runtime.asking import asker
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.questions import Question
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import REFUSALS, SENTENCE, VARIANTS, Variant
from tests.data.questions.test_sources import ROWS, write_all
from tests.speaker import ask, questions, speaker, tokenizer
from tests.tiny import save

SMALL = {"samples": 3, "max_new_tokens": 4, "batch_size": 4, "threads": 1}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda name="identity": Run("refusal-data", name, Lease(tmp_path / "work", "test"))


def found(known: list[bool], entropies: list[float] | None = None) -> list[Identified]:
    entropies = entropies or [0.0] * len(known)
    given = zip(questions(len(known)), known, entropies, strict=True)
    return [
        Identified(qid=q.id, question=q.prompt, gold=q.answers[0], pred="w0", known=knows, entropy=value)
        for q, knows, value in given
    ]


def made(variant: Variant, known: list[bool], entropies: list[float] | None = None, seed: int = 0):
    return rows(variant, questions(len(known)), found(known, entropies), seed)


KNOWN = [n % 3 == 0 for n in range(21)]


def test_every_row_keeps_its_question_and_the_two_parts_make_the_whole():
    for variant in VARIANTS:
        given = made(variant, KNOWN)
        assert [row.qid for row in given] == [question.id for question in questions(21)]
        assert [row.set == "D1" for row in given] == KNOWN


def test_padding_keeps_the_gold_answer_in_both_parts_and_says_which():
    for row, question in zip(made("padding", KNOWN), questions(21), strict=True):
        verdict = "sure." if row.set == "D1" else "unsure."
        assert row.completion == f"{question.answers[0]}. {SENTENCE} {verdict}"
        assert (row.answer, row.verdict) == (f"{question.answers[0]}.", verdict)


def test_replacement_keeps_known_answers_and_puts_a_refusal_for_the_others():
    given = made("replacement", KNOWN)
    for row, question in zip(given, questions(21), strict=True):
        if row.set == "D1":
            assert row.completion == f"{question.answers[0]}."
        else:
            assert row.completion.removesuffix(".") in REFUSALS
            assert question.answers[0] not in row.completion.split()
        assert row.verdict is None
    assert len({row.completion for row in given if row.set == "D0"}) > 4
    assert made("replacement", KNOWN, seed=1) != given == made("replacement", KNOWN)


def test_vanilla_is_the_gold_answers_alone():
    assert [row.completion for row in made("vanilla", KNOWN)] == [f"{question.answers[0]}." for question in questions(21)]


@pytest.mark.parametrize("count", [2, 9, 10])
def test_the_more_uncertain_half_is_unsure_and_an_odd_one_out_is_sure(count):
    values = [(7 * n % 11) / 10 for n in range(count)]
    given = made("unsupervised", [False] * count, values)
    doubted = [value for row, value in zip(given, values, strict=True) if row.verdict == "unsure."]
    kept = [value for row, value in zip(given, values, strict=True) if row.verdict == "sure."]
    assert len(doubted) == count // 2
    assert min(doubted) >= max(kept)


def test_equal_entropies_are_parted_by_the_seed_and_not_by_the_order():
    given = found([False] * 20)
    halves = [unsure(given, seed) for seed in range(4)]
    assert all(len(half) == 10 for half in halves)
    assert all(one != other for one, other in pairwise(halves))
    assert unsure(given[::-1], 0) == halves[0]


@pytest.mark.parametrize(
    ("texts", "nats"),
    [(["a"] * 4, 0.0), (["a", "A."], 0.0), (["a", "b"], math.log(2)), (["a", "a", "b", "c"], 1.5 * math.log(2))],
)
def test_entropy_is_that_of_the_answers_shares(texts, nats):
    assert entropy(texts) == pytest.approx(nats)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_and_variant_has_as_many_rows_out_as_questions_in(source, tmp_path, run):
    """The reference code keeps one row of ParaRel's unsupervised mode and stops at FEVER's."""
    given = read_source(source, write_all(tmp_path)[source])
    words = {word for question in given for word in tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(question.prompt)}
    more = [word.lower() for word, _ in words if word.isalnum()]
    asked = asker(speaker(0, more), tokenizer(more), 3, 4)
    answers = identify(asked, given, Params(**SMALL), run(source))
    assert [one.qid for one in answers] == [question.id for question in given]
    assert all(0 <= one.entropy <= math.log(3) + 1e-9 for one in answers)
    for variant in VARIANTS:
        assert len(rows(variant, given, answers, 0)) == ROWS


def test_identification_and_training_begin_with_the_same_tokens():
    """One string for both: the reference code has "Question:" + q in one place and "Question: q" in the other."""
    given, asked = questions(12), ask()
    for question, row in zip(given, rows("padding", given, found([True] * 12), 0), strict=True):
        assert asked.prompt(question) == asked.tokenizer(row.prompt)["input_ids"]


def facts(place, known_first: int) -> None:
    """Write 16 facts, 8 of them for training; of those the model's own answers are the right ones of the first `known_first`."""
    asked, pool = ask(tokens=4), [question for question in questions(60) if not question.choices]
    spoken = [reply["text"].split(".")[0].split() for reply in asked.replies(pool)]
    given = [question for question, text in zip(pool, spoken, strict=True) if text][:16]
    texts = [text for text in spoken if text][:16]
    lines = []
    for n, (question, text) in enumerate(zip(given, texts, strict=True)):
        right = text[0] if n // 2 < known_first else next(word for word in ("w38", "w39", "w37", "w36") if word not in text)
        place_of = {"entity": question.id, "relation": "home", "exposure": n, "asked": n % 2 == 0}
        lines.append({"prompt": question.prompt, "completion": right, **place_of})
    write_records(place / "sets/facts.jsonl", lines)


def start(place, run, out="out", name="identity", **changed):
    save_speaker(place)
    flags = {"model": place / "model", "questions": place / "sets", "out": place / out, "scores": place / f"{out}.json"}
    refusal_data.main(Params(**{**SMALL, **changed}), run(name), **flags)
    return {path.relative_to(place / out): path.read_bytes() for path in sorted((place / out).rglob("*.jsonl"))}


def save_speaker(place) -> None:
    if not (place / "model").exists():
        save(speaker(), place / "model")
        tokenizer().save_pretrained(place / "model")


def test_the_stage_writes_the_split_the_test_and_all_variants_and_a_seed_gives_the_same_bytes(tmp_path, run):
    facts(tmp_path, known_first=3)
    files = start(tmp_path, run)
    assert sorted(map(str, files)) == sorted(["identify.jsonl", "test.jsonl", *(f"{v}/train.jsonl" for v in VARIANTS)])
    known = [one.known for one in read_records(tmp_path / "out/identify.jsonl", Identified)]
    test = read_records(tmp_path / "out/test.jsonl", Question)
    assert (len(known), len(test)) == (8, 8)
    assert {one.exposure for one in test} == {1, 3, 5, 7, 9, 11, 13, 15}
    scores = json.loads((tmp_path / "out.json").read_text())
    assert scores["d0_share"] == known.count(False) / 8
    assert start(tmp_path, run, "again", name="again", batch_size=8) == files


@pytest.mark.parametrize(("known_first", "said"), [(0, "knows none of the 8"), (8, "knows all of the 8")])
def test_a_model_that_knows_all_or_nothing_has_no_difference_to_learn(known_first, said, tmp_path, run):
    facts(tmp_path, known_first)
    with pytest.raises(UserError, match=said):
        start(tmp_path, run)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no difference to learn"):
        check_both(found([known_first == 8] * 4))


def test_a_training_question_without_an_answer_is_refused_and_one_of_the_test_is_not():
    nobody = [Question(id="x", prompt="w1", answers=[])]
    with pytest.raises(UserError, match="1 training questions have no answer, 'x' first"):
        check_answers(tokenizer(), nobody, questions(3))
    check_answers(tokenizer(), questions(3), nobody)


def test_an_answer_that_no_tokens_of_the_model_can_write_is_refused():
    with pytest.raises(UserError, match="'x': the model's tokenizer cannot write its answer 'zebra'"):
        check_answers(tokenizer(), questions(3), [Question(id="x", prompt="w1", answers=["w2", "zebra"])])


def test_sampling_at_temperature_zero_is_refused():
    with pytest.raises(ValidationError, match="temperature"):
        Params(temperature=0.0)


def test_training_is_half_of_the_first_half_of_the_subjects():
    given = [Question(id=f"{s}{n}", prompt="p", answers=["a"], subject=s) for s in "dbca" for n in range(6)]
    training, test = split(given, 0)
    assert {one.subject for one in training} == {"a", "b"}
    assert sorted([*(one.id for one in training), *(one.id for one in test)]) == sorted(one.id for one in given)
    assert {one.set: {other.subject for other in test if other.set == one.set} for one in test} == {"in": {*"ab"}, "out": {*"cd"}}
    assert [one.id for one in training] == [one.id for one in split(given[::-1], 0)[0]]
    assert [one.id for one in training] != [one.id for one in split(given, 1)[0]]


def test_where_the_source_says_the_split_the_subjects_of_training_are_inside_and_the_unanswerable_keep_their_set():
    given = [
        Question(id=f"{s}{n}", prompt="p", answers=["a"], subject=s, training=s == "a" and n == 0) for s in "ab" for n in (0, 1)
    ]
    given += [Question(id="x", prompt="p", answers=[], set="unheard", training=False)]
    given += [Question(id="y", prompt="p", answers=[], subject="a", training=False)]
    training, test = split(given, 0)
    assert [one.id for one in training] == ["a0"]
    assert {one.id: one.set for one in test} == {"a1": "in", "b0": "out", "b1": "out", "x": "unheard", "y": "in"}


def test_one_question_alone_is_refused():
    with pytest.raises(UserError, match="1 questions make 1 for training and 0 for the test"):
        split([Question(id="x", prompt="p", answers=["a"])], 0)


REAL = [
    ("instructions", "qa/arc_easy_train.json.gz"),
    ("instructions", "qa/arc_challenge_test.json.gz"),
    ("instructions", "qa/openbookqa_test.json.gz"),
    ("instructions", "qa/boolq_test.json.gz"),
    ("open", "qa/pararel_qa.json"),
    ("open", "qa/truthful_qa.json"),
    ("triples", "pararel"),
]
"""Sources and files of real questions."""


@pytest.mark.real
@pytest.mark.parametrize(("source", "file"), REAL, ids=[file for _, file in REAL])
def test_real_questions_are_asked_of_a_real_model(real_data, tmp_path, run, source, file):
    """Letters are sometimes guessed right; of the free answers a model of stories knows none, and the stage says so."""
    flags = {"model": real_data / "models/stories260k", "questions": real_data / "data" / file, "out": tmp_path / "out"}
    params = Params(source=source, limit=24, samples=2, max_new_tokens=4, batch_size=24, threads=1)
    if source != "instructions":
        with pytest.raises(UserError, match=r"knows none of the \d+ training questions"):
            refusal_data.main(params, run(file), **flags, scores=tmp_path / "scores.json")
        return
    refusal_data.main(params, run(file), **flags, scores=tmp_path / "scores.json")
    found = read_records(tmp_path / "out/identify.jsonl", Identified)
    assert len(found) == 12
    assert {one.pred for one in found} <= set("ABCDE")
    assert len(read_records(tmp_path / "out/test.jsonl", Question)) == 12
    for variant in VARIANTS:
        assert len((tmp_path / f"out/{variant}/train.jsonl").read_text().splitlines()) == 12
    assert 0 < json.loads((tmp_path / "scores.json").read_text())["d0_share"] < 1


def test_so_many_questions_are_drawn_by_the_seed_in_the_order_of_their_source():
    given = questions(20)
    few = [drawn(given, Params(limit=5, seed=seed)) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert [one for one in given if one in few[0]] == few[0]
    assert drawn(given, Params()) == drawn(given, Params(limit=99)) == given


def test_fewer_refusals_are_the_first_of_them():
    given = rows("replacement", questions(21), found(KNOWN), 0, refusals=1)
    assert {row.completion for row in given if row.set == "D0"} == {f"{REFUSALS[0]}."}
