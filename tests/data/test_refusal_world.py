"""The world of refusal: facts told exactly as often as their exposure says, and questions whose right refusal is known."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tasks.data import refusal_world
from tasks.data.atlas import WORD
from tasks.data.questions.sources import read_source
from tasks.data.refusal_data import split
from tasks.data.refusal_world import FALSE, NAMELESS, Params
from tasks.data.tokenizer import read_words, word_tokenizer
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import REFUSALS, SENTENCE, SURE, UNSURE, encode_verdicts

ATLAS = Path(__file__).resolve().parents[2] / "data/atlas"
SMALL = {"entities": 4, "heldout": 8, "unanswerable": 6, "sayings": 30}


def write(place, monkeypatch, **changed) -> dict[str, bytes]:
    monkeypatch.chdir(place)
    flags = {"atlas": ATLAS, "out": place / "out", "scores": place / "scores.json"}
    refusal_world.main(Params(**{**SMALL, **changed}), Run("refusal-world", "x", Lease(place, "x")), **flags)
    return {path.name: path.read_bytes() for path in (place / "out").iterdir()}


def texts_of(files: dict[str, bytes]) -> list[str]:
    return [json.loads(line)["text"] for line in files["pretrain.jsonl"].splitlines()]


def test_facts_are_told_as_often_as_their_exposure_says(tmp_path, monkeypatch):
    files = write(tmp_path, monkeypatch)
    stated = Counter(word for text in texts_of(files) for word in text.split())
    given = [question for question in read_source("atlas", tmp_path / "out") if question.answers]
    names = {question.id.rsplit("-", 1)[0]: question.exposure for question in given}
    assert Counter(names.values()) == {0: 12, 1: 4, 2: 4, 4: 4, 8: 4, 16: 4}, (
        "an exposure named three times has thrice the entities"
    )
    assert all(stated[name] == 4 * exposure for name, exposure in names.items()), "four relations an entity"


def test_test_questions_are_of_other_entities_and_of_one_relation_more(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch)
    training, test = split(read_source("atlas", tmp_path / "out"), 0)
    told = {question.id.rsplit("-", 1)[0] for question in training}
    assert not told & {question.id.rsplit("-", 1)[0] for question in test}
    assert {question.subject for question in training} == {"home", "craft", "beast"}
    assert {question.subject for question in test if question.set == "in"} == {"home", "craft", "beast"}
    assert {question.subject for question in test if question.set == "out"} == {"colour"}
    assert Counter(question.set for question in test)["out"] == 16, "every second entity of 32"


def test_nobody_can_answer_of_a_name_never_told_nor_of_a_word_that_is_no_name(tmp_path, monkeypatch):
    files = write(tmp_path, monkeypatch)
    rows = [json.loads(line) for line in files["unanswerable.jsonl"].splitlines()]
    words = {word for text in texts_of(files) for word in text.split()}
    facts = [json.loads(line) for line in files["facts.jsonl"].splitlines()]
    assert Counter(row["kind"] for row in rows) == {NAMELESS: 6, FALSE: 6}
    assert len({row["prompt"] for row in rows}) == 12
    for row in rows:
        assert row["name"] in row["prompt"].split()
        assert row["name"] not in {fact["entity"] for fact in facts}
        assert (row["name"] in words) == (row["kind"] == FALSE)
    tokenizer = word_tokenizer(read_words(tmp_path / "out/words.txt"), 256)
    assert all(tokenizer.unk_token_id not in tokenizer(row["prompt"])["input_ids"] for row in rows)


def test_sayings_are_words_of_the_world_and_tell_nothing_of_any_question(tmp_path, monkeypatch):
    files = write(tmp_path, monkeypatch)
    words = word_tokenizer(read_words(tmp_path / "out/words.txt"), 256)
    for text in (SENTENCE, *REFUSALS):
        assert all(words.convert_tokens_to_ids(word) != words.unk_token_id for word in WORD.findall(text.lower()))
    assert encode_verdicts(words).sure[0] != encode_verdicts(words).unsure[0]
    said = Counter(text for text in texts_of(files) if text.endswith("."))
    assert said.total() == 30
    assert said[f"{SENTENCE} {SURE}"] == said[f"{SENTENCE} {UNSURE}"] == 5
    assert set(said) - {f"{SENTENCE} {SURE}", f"{SENTENCE} {UNSURE}"} <= {f"{refusal}." for refusal in REFUSALS}
    silent = texts_of(write(tmp_path, monkeypatch, sayings=0))
    assert not any("sure" in text for text in silent)


def test_a_seed_gives_the_same_bytes_and_another_gives_others(tmp_path, monkeypatch):
    first = write(tmp_path, monkeypatch)
    assert write(tmp_path, monkeypatch) == first
    assert write(tmp_path, monkeypatch, seed=1)["facts.jsonl"] != first["facts.jsonl"]


def test_a_relation_that_there_is_not_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"refusal-world.relation: no 'spouse' in facts.yaml; it has home, craft, beast, colour"):
        write(tmp_path, monkeypatch, relation="spouse")
