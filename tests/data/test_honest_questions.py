"""Half the entities of every kind are learned from and the other half asked; no entity is on both sides."""

from collections import Counter

import pytest

from tasks.data import honest_questions
from tasks.data.honest_questions import Fact, Params
from tasks.runtime.params import UserError
from tasks.runtime.records import read_records, write_records


def facts(entities: int):
    return [
        {
            "prompt": f"{r} of e{n} ?",
            "completion": f"a{n}",
            "entity": f"e{n}",
            "relation": r,
            "exposure": n % 3,
            "asked": n % 2 == 0,
        }
        for n in range(entities)
        for r in ("home", "craft")
    ]


def part(place, rows, seed: int = 0):
    write_records(place / "corpus/facts.jsonl", rows)
    scores = place / "scores.json"
    honest_questions.main(Params(seed=seed), None, corpus=place / "corpus", out=place / "out", scores=scores)
    return read_records(place / "out/facts.jsonl", Fact)


def test_every_kind_is_halved(tmp_path):
    told = part(tmp_path, facts(24))
    sides = Counter((fact.exposure, int(fact.entity[1:]) % 2, fact.asked) for fact in told)
    assert set(sides.values()) == {4}, "six kinds of four entities with two facts each: two entities on either side"
    assert len(sides) == 12


def test_no_entity_is_on_both_sides_and_the_training_file_has_one_of_them(tmp_path):
    told = part(tmp_path, facts(24))
    learned, asked = ({fact.entity for fact in told if fact.asked is side} for side in (True, False))
    assert not learned & asked
    assert {fact.entity for fact in read_records(tmp_path / "out/training.jsonl", Fact)} == learned


def test_a_seed_gives_the_same_split_and_another_another(tmp_path):
    first, again, other = (part(tmp_path / name, facts(60), seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == again != other


def test_a_world_of_single_entities_leaves_nothing_to_ask(tmp_path):
    with pytest.raises(UserError, match=r"none is left to ask about; raise corpus.entities"):
        part(tmp_path, facts(6))
