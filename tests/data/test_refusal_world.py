"""The world of refusal: facts stated exactly as often as their exposure says, by words that the tokenizer has."""

import json
from collections import Counter
from pathlib import Path

from tasks.data import refusal_world
from tasks.data.atlas import WORD
from tasks.data.questions.sources import read_source
from tasks.data.refusal_world import Params
from tasks.data.tokenizer import read_words, word_tokenizer
from tasks.runtime.lease import Lease
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import REFUSALS, SENTENCE, encode_verdicts

ATLAS = Path(__file__).resolve().parents[2] / "data/atlas"


def write(place, monkeypatch, **changed) -> dict[str, bytes]:
    monkeypatch.chdir(place)
    flags = {"atlas": ATLAS, "out": place / "out", "scores": place / "scores.json"}
    refusal_world.main(Params(entities=4, heldout=8, **changed), Run("refusal-world", "x", Lease(place, "x")), **flags)
    return {path.name: path.read_bytes() for path in (place / "out").iterdir()}


def test_facts_are_stated_as_often_as_their_exposure_says(tmp_path, monkeypatch):
    files = write(tmp_path, monkeypatch)
    texts = [json.loads(line)["text"] for line in files["pretrain.jsonl"].splitlines()]
    stated = Counter(word for text in texts for word in text.split())
    given = read_source("atlas", tmp_path / "out")
    names = {question.id.rsplit("-", 1)[0]: question.exposure for question in given}
    assert len(names) == 4 * 7
    assert all(stated[name] == 4 * exposure for name, exposure in names.items()), "four relations an entity"
    assert {question.training for question in given} == {True, False}
    trained = {question.id.rsplit("-", 1)[0] for question in given if question.training}
    assert not trained & {question.id.rsplit("-", 1)[0] for question in given if not question.training}


def test_verdicts_and_refusals_are_words_that_no_text_of_the_world_uses(tmp_path, monkeypatch):
    files = write(tmp_path, monkeypatch)
    words = word_tokenizer(read_words(tmp_path / "out/words.txt"), 256)
    for text in (SENTENCE, *REFUSALS):
        assert all(words.convert_tokens_to_ids(word) != words.unk_token_id for word in WORD.findall(text.lower()))
    assert encode_verdicts(words).sure[0] != encode_verdicts(words).unsure[0]
    assert b"sure" not in files["pretrain.jsonl"]


def test_a_seed_gives_the_same_bytes_and_another_gives_others(tmp_path, monkeypatch):
    first = write(tmp_path, monkeypatch)
    assert write(tmp_path, monkeypatch) == first
    assert write(tmp_path, monkeypatch, seed=1)["facts.jsonl"] != first["facts.jsonl"]
