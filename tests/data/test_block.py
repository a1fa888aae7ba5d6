"""Block data: easy first, as many earlier records in front of each as just fit, and never what would give the answer away."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import block
from tasks.data.block import Params, arranged
from tasks.runtime.blocks import Blocks
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.theorem_prompt import Layout, Posed, Renderer, load_layout, steps
from tests.theorems import chain, sum_of, tokenizer, world

LENGTH = 260


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer folder."""
    place = tmp_path_factory.mktemp("words")
    tokenizer().save_pretrained(place)
    return place


@pytest.fixture
def made(tmp_path, words):
    """Run the stage on records; returns its blocks, its scores and the lines of its order."""

    def run(records, /, **params):
        params = {"max_length": LENGTH, **params}
        write_records(tmp_path / "records.jsonl", records)
        place = {"records": tmp_path / "records.jsonl", "tokenizer": words}
        block.main(Params(**params), None, **place, out=tmp_path / "out", scores=tmp_path / "scores.json")
        order = [json.loads(line) for line in (tmp_path / "out/order.jsonl").read_text().splitlines()]
        return Blocks.load(tmp_path / "out"), json.loads((tmp_path / "scores.json").read_text()), order

    return run


def expected(records, target, ring, length=LENGTH):
    """Examples of one record by the definition: whole prompts are rendered anew for every k, until one is too long."""
    renderer, best = Renderer(tokenizer(), Layout()), []
    encoded = renderer.encode(records)
    back = [(target - d) % len(records) for d in range(1, len(records)) if ring or d <= target]
    for k in range(len(back) + 1):
        use = [n for n in back[:k] if records[n].proposition != records[target].proposition][::-1]
        prompt = renderer.prompt([encoded[n] for n in use], encoded[target].question)
        if len(prompt) + len(encoded[target].answer) <= length:
            best = use
    return best


@pytest.mark.parametrize("ring", [True, False])
def test_as_many_earlier_records_as_fit_and_one_more_would_not(made, ring):
    data, _, order = made(world(), ring=ring)
    by_name = {record.Name: record for record in world()}
    records = [by_name[line["Name"]] for line in order]
    for target in range(len(records)):
        assert data.examples_of(target) == expected(records, target, ring)
    assert data.lengths.max() <= LENGTH
    assert bool(data.examples_of(0)) == ring, "the easiest is preceded by the hardest, or by nothing"


def test_a_row_is_what_the_prover_is_asked_later_and_then_the_answer(made):
    data, _, order = made(world())
    renderer = Renderer(tokenizer(), Layout())
    by_name = {record.Name: record for record in world()}
    encoded = renderer.encode([by_name[line["Name"]] for line in order])
    for number in range(len(data)):
        ids, labels = data.row(number)
        examples = [encoded[n] for n in data.examples_of(number)]
        assert list(ids) == renderer.prompt(examples, encoded[number].question) + encoded[number].answer
        assert len(ids) == data.lengths[number] == order[number]["tokens"]
        learned = len(encoded[number].answer)
        assert list(labels[-learned:]) == encoded[number].answer
        assert set(labels[:-learned]) == {IGNORED}
        assert data.row(number, "all") == (ids, ids)


def test_difficulty_ascends_and_ties_stay_as_they_came(made):
    _, scores, order = made(world())
    assert [line["steps"] for line in order] == sorted(line["steps"] for line in order)
    given_order = [record.Name for record in world()]
    assert [line["Name"] for line in order if line["steps"] == 1] == [n for n in given_order if n in one_step()]
    assert scores["steps"] == {str(k): v for k, v in sorted(Counter(map(steps, world())).items())}


def one_step():
    return {record.Name for record in world() if record.steps == 1}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_without_a_curriculum_the_seed_alone_decides(difficulty, seed):
    free = Params(curriculum=False, seed=seed)
    assert arranged(difficulty, free) == arranged([1] * len(difficulty), free)
    assert sorted(arranged(difficulty, free)) == list(range(len(difficulty)))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=2, max_size=12), st.booleans(), st.integers(200, 500))
def test_no_record_sees_itself_its_name_or_its_proposition(pairs, ring, length):
    records = [chain(number, size).model_copy(update={"Name": f"chain_{number}"}) for number, size in pairs]
    renderer = Renderer(tokenizer(), Layout())
    params = Params(max_length=length, ring=ring)
    found = block.fitting(renderer, records, params, block.Rejects(), "x") if length > 120 else None
    for target, examples in enumerate(block.examples_of(found, renderer, params)):
        assert len(set(examples)) == len(examples) <= len(records) - 1
        assert all(found.records[n].Name != found.records[target].Name for n in examples)
        assert all(found.records[n].proposition != found.records[target].proposition for n in examples)


def test_the_same_theorem_under_another_name_is_no_example(made):
    twin = chain(1).model_copy(update={"Name": "other", "Statement": chain(1).Statement.replace("chain_1", "other")})
    twin = twin.model_copy(update={"Proof": twin.Statement + " by exact h", "Commented_proof": twin.Statement + " by exact h"})
    data, _, order = made([chain(1), twin, chain(2)], max_length=1000)
    names = [line["Name"] for line in order]
    for number, name in enumerate(names):
        seen = {names[n] for n in data.examples_of(number)}
        assert not ({name} | ({"chain_1", "other"} if name in ("chain_1", "other") else set())) & seen


@pytest.mark.parametrize(
    ("without", "layout"),
    [
        ("nothing", Layout()),
        ("words", Layout(informal=False, comments="none")),
        ("inline_comments", Layout(comments="head")),
        ("blocks", Layout()),
        ("curriculum", Layout()),
    ],
)
def test_one_thing_is_left_out_at_a_time(made, tmp_path, without, layout):
    _, scores, order = made(world(), without=without)
    assert load_layout(tmp_path / "out") == layout
    assert (scores["examples_mean"] == 0) == (without == "blocks")
    steps_ = [line["steps"] for line in order]
    assert (steps_ == sorted(steps_)) == (without != "curriculum")


def test_the_seed_draws_the_records(made):
    drawn = [{line["Name"] for line in made(world(), records=10, seed=seed)[2]} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(names) == 10 for names in drawn)


def test_no_blocks_means_no_examples(made):
    data, scores, _ = made(world(), block=False)
    assert all(data.examples_of(n) == [] for n in range(len(data)))
    assert scores["examples"] == {"0": len(world())}


def test_a_proof_longer_than_the_context_is_set_aside_whole_and_counted(made, tmp_path):
    data, scores, order = made([*world(), chain(99, 40)])
    assert len(data) == len(world())
    assert scores["rejected"] == {"too long": 1}
    (line,) = map(json.loads, (tmp_path / "out/rejects.jsonl").read_text().splitlines())
    assert (line["Name"], line["reason"]) == ("chain_99", "too long")
    assert "the context takes 260" in line["detail"]
    assert "chain_99" not in [line["Name"] for line in order]


def test_when_nothing_fits_it_says_so(made):
    with pytest.raises(UserError, match=r"records.jsonl: no record can be learned: 1 too long; raise prover-data.max_length"):
        made([chain(99, 40)])


def test_a_record_without_a_proof_of_its_statement_is_set_aside(made):
    _, scores, _ = made([*world(), chain(50).model_copy(update={"Commented_proof": "theorem other : 1 = 1 := rfl"})])
    assert scores["rejected"] == {"no proof of its statement": 1}


def test_a_malformed_line_stops_or_is_counted(made, tmp_path):
    bad = {"Name": "x"}
    with pytest.raises(UserError, match=r"records.jsonl:1: not a Posed record: Statement: Field required"):
        made([bad, chain(1)])
    _, scores, _ = made([bad, chain(1)], on_bad_record="quarantine")
    assert scores["rejected"] == {"malformed": 1}


def test_only_the_training_split_is_learned(made):
    _, _, order = made([chain(1), chain(2, split="test"), chain(3, split="heldout")])
    assert [line["Name"] for line in order] == ["chain_1"]


def test_same_records_same_bytes_and_the_layout_goes_with_them(made, tmp_path):
    layout = Layout(comments="head", informal=False)
    made(world(), layout=layout.model_dump())
    first = (tmp_path / "out/blocks.safetensors").read_bytes()
    made(world(), layout=layout.model_dump())
    assert (tmp_path / "out/blocks.safetensors").read_bytes() == first
    assert load_layout(tmp_path / "out") == layout


def test_damaged_block_data_is_named(made, tmp_path):
    made(world())
    (tmp_path / "out/blocks.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(UserError, match="damaged block data"):
        Blocks.load(tmp_path / "out")
    with pytest.raises(UserError, match="no such file; run the stage prover-data first"):
        Blocks.load(tmp_path)


@pytest.mark.real
def test_difficulties_of_the_released_records_are_as_counted(real_data):
    rows = json.loads((real_data / "data/lean/minif2f_valid_commented.json").read_text())
    records = [Posed.model_validate(row) for row in rows if row.get("Commented_proof")]
    assert len(records) == 93
    assert Counter(map(steps, records)) == {1: 37, 2: 32, 3: 8, 4: 9, 5: 3, 7: 1, 8: 1, 9: 1, 10: 1}


def test_a_sum_is_easier_than_a_chain():
    assert steps(sum_of(1)) == 1 < steps(chain(1, 3)) == 3
