"""Atlas's theorems are true, told twice, new up to renaming, and the same bytes from the same seed."""

import itertools
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tasks.data.informal import in_words, judge_words
from tasks.data.regions.theorems import FAMILIES
from tasks.data.regions.theorems.instance import Instance
from tasks.data.regions.theorems.source import load_theorems
from tasks.data.theorem_drafts import Params, distinct, drafts
from tasks.runtime.imports import ROOT
from tasks.runtime.lean.comments import refusal, woven
from tasks.runtime.lean.difficulty import count_steps
from tasks.runtime.lean.lexer import lex
from tasks.runtime.params import UserError

SOURCE = load_theorems(ROOT / "data/atlas")


@pytest.fixture(scope="module")
def told():
    return drafts(SOURCE, Params())


def of_each_family(count):
    for family, entry in SOURCE.families.items():
        for instance in distinct(SOURCE, family, entry.levels, count, random.Random(1)):
            yield family, instance


INSTANCES = list(of_each_family(16))


def test_there_are_families_enough_and_some_are_held_out_whole(told):
    splits = defaultdict(Counter)
    for row in told:
        splits[row.family][row.split] += 1
    seen = [counts for counts in splits.values() if counts["train"]]
    assert len(seen) >= 12
    assert all(counts == {"train": 36, "valid": 4, "test": 6} for counts in seen)
    heldout = [counts for counts in splits.values() if not counts["train"]]
    assert len(heldout) >= 2
    assert all(counts == {"heldout": 12} for counts in heldout)
    assert set(splits) == set(FAMILIES) == set(SOURCE.families)


def test_difficulty_is_spread_from_one_step_to_nine(told):
    steps = Counter(count_steps(row.body) for row in told)
    assert set(range(1, 10)) <= set(steps)
    assert max(steps.values()) < len(told) / 3


def test_every_theorem_has_a_name_of_its_own_words_and_two_proofs(told):
    assert len({row.Name for row in told}) == len(told)
    for row in told:
        proofs = [row.Proof, *row.Other_proofs]
        assert len(set(proofs)) == len(proofs) >= 2
        assert all(proof.startswith(f"{row.Statement} by\n") and lex(proof).fault is None for proof in proofs)
        assert judge_words(in_words(row), 4000) == (in_words(row), "")


def test_the_commented_proof_is_the_proof_with_a_sentence_for_every_step(told):
    for row in told:
        assert refusal(row.Proof, woven(row.Statement, row.body, row.told)) is None
        assert len(row.told) == count_steps(row.body)


def test_no_statement_stands_in_two_splits_up_to_renaming():
    """Asked with another renaming than the generator's: letters numbered over all orders of the variables."""
    rows = drafts(SOURCE, Params(train=12, valid=3, test=4, heldout=4))
    seen = defaultdict(set)
    for row in rows:
        seen[renamed(row.Statement)].add(row.Name)
    assert all(len(names) == 1 for names in seen.values())


def renamed(statement):
    """What a statement says, variables numbered as they are first used, declared in no order."""
    said = re.sub(r"^theorem \S+ ", "", statement)
    binders = re.findall(r"\(([a-gi-z](?: [a-gi-z])*) : ([^()]+)\)", said)
    rest = re.sub(r"\(([a-gi-z](?: [a-gi-z])*) : [^()]+\) ?", "", said)
    order = list(dict.fromkeys(re.findall(r"\b[a-gi-z]\b", rest)))
    kinds = sorted((order.index(letter), kind) for letters, kind in binders for letter in letters.split())
    return re.sub(r"\b[a-gi-z]\b", lambda match: f"v{order.index(match[0])}", rest), str(kinds)


def test_renaming_leaves_the_form_and_another_order_does_not():
    one = Instance((("a b", "Nat"),), ("a ≤ b", "b ≤ 3"), "a ≤ 3", (), ())
    other = Instance((("y", "Nat"), ("x", "Nat")), ("y ≤ x", "x ≤ 3"), "y ≤ 3", (), ())
    assert one.form() == other.form()
    assert one.form() != Instance((("a b", "Nat"),), ("b ≤ 3", "a ≤ b"), "a ≤ 3", (), ()).form()
    assert one.form() != Instance((("a b", "Int"),), ("a ≤ b", "b ≤ 3"), "a ≤ 3", (), ()).form()


def test_same_seed_same_records_and_families_do_not_disturb_one_another(told):
    assert drafts(SOURCE, Params()) == told
    fewer = SOURCE.model_copy(update={"families": {"reach": SOURCE.families["reach"]}})
    alone = [row.Proof for row in drafts(fewer, Params())]
    assert alone == [row.Proof for row in told if row.family == "reach"]
    assert alone != [row.Proof for row in drafts(fewer, Params(seed=1))]


LOGIC = [instance for family, instance in INSTANCES if family in ("implications", "conjunctions", "disjunctions", "iff_chain")]
NUMBERS = [
    instance
    for family, instance in INSTANCES
    if all(kind in ("Nat", "Int") for _, kind in instance.variables) and "∃" not in instance.claim and "∀" not in instance.claim
]


def test_the_theorems_of_logic_hold_in_every_truth_table():
    """A second opinion that needs no Lean."""
    assert len(LOGIC) >= 60
    for instance in LOGIC:
        letters = instance.variables[0][0].split()
        for values in itertools.product([False, True], repeat=len(letters)):
            world = {letter: Truth(value) for letter, value in zip(letters, values, strict=True)}
            if all(evaluated(claim, world).holds for claim in instance.hypotheses):
                assert evaluated(instance.claim, world).holds, instance


class Truth:
    """A truth value with Lean's connectives on Python operators that bind in Lean's order."""

    def __init__(self, holds):
        self.holds = holds

    def __and__(self, other):
        return Truth(self.holds and other.holds)

    def __or__(self, other):
        return Truth(self.holds or other.holds)


def evaluated(claim, world):
    """The truth of a proposition; arrows, which lean to the right, are split off first."""
    for sign, joined in (("↔", lambda p, q: p == q), ("→", lambda p, q: not p or q)):
        depth = 0
        for place, character in enumerate(claim):
            depth += (character == "(") - (character == ")")
            if character == sign and not depth:
                left, right = evaluated(claim[:place], world), evaluated(claim[place + 1 :], world)
                return Truth(joined(left.holds, right.holds))
    return eval(claim.replace("∧", "&").replace("∨", "|"), {}, world)


def test_the_theorems_of_arithmetic_hold_for_random_numbers():
    rng = random.Random(0)
    assert len(NUMBERS) >= 100
    for instance in NUMBERS:
        met = 0
        for _ in range(3000):
            world = {letter: rng.randint(1, 6) for letters, _ in instance.variables for letter in letters.split()}
            if all(number(claim, world) for claim in instance.hypotheses):
                assert number(instance.claim, world), (instance, world)
                met += 1
            if met == 5:
                break


def number(claim, world):
    left, divides, right = claim.partition(" ∣ ")
    text = f"({right}) % ({left}) == 0" if divides else re.sub(r"(?<![<≤≠]) = ", " == ", claim)
    return eval(text.replace("≤", "<=").replace("≠", "!="), {}, world)


def test_witnesses_solve_their_equation():
    for family, instance in INSTANCES:
        if family == "witness" and len(instance.lines) == 1:
            equation = instance.claim.partition(", ")[2].replace("=", "==")
            assert eval(equation, {"x": int(re.search(r"⟨(\d+),", instance.lines[0].code)[1])})


def test_a_family_that_makes_too_few_theorems_is_named_with_the_remedy():
    with pytest.raises(UserError, match=r"families.divides_chain makes only 2 different theorems, 9 are wanted; add levels"):
        distinct(SOURCE, "divides_chain", [1], 9, random.Random(0))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("families: {nonsense: {levels: [1]}}", "families.nonsense: unknown family; known are numerals"),
        ("families: {reach: {levels: []}}", "families.reach.levels"),
        ("alphabets: [abch]", "alphabets.0"),
        ("largest: 1", "largest"),
        ("more: 1", "more"),
    ],
)
def test_a_mistake_in_the_source_is_named(tmp_path, changed, said):
    text = {"alphabets": "alphabets: [abcdefgijklm]", "largest": "largest: 20", "families": "families: {reach: {levels: [1]}}"}
    text[changed.partition(":")[0]] = changed
    (tmp_path / "theorems.yaml").write_text("\n".join(text.values()), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        drafts(load_theorems(Path(tmp_path)), Params(train=1, valid=0, test=1, heldout=1))
