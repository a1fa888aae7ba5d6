# ruff: noqa: E501 (a proof reads best on one line)
"""Nothing false is ever verified, each attack is refused for its own reason, and no honest proof is refused."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.prove.checker import Candidate, Verdict
from tasks.prove.repl import ReplChecker
from tasks.prove.rules import refusal
from tests.prove.attacks import BY_LEAN, BY_TEXT, FALSE, HONEST, TRUE


def honest() -> list[Candidate]:
    """The honest proofs as candidates."""
    found = []
    for statement, proof in HONEST:
        name = re.search(r"theorem (\S+?)(?:\.\{u\})? ", statement)
        assert name
        found.append(Candidate(name[1], statement, f"{statement} {proof}"))
    return found


@pytest.mark.parametrize(("what", "candidate", "reason"), BY_TEXT, ids=[what for what, *_ in BY_TEXT])
def test_the_text_rule_refuses(what, candidate, reason):
    found = refusal(candidate)
    assert found is not None, f"a proof that {what} reaches Lean"
    assert found.reason == reason, found.detail
    assert found.detail


@pytest.mark.parametrize(("what", "candidate", "reason"), BY_LEAN, ids=[what for what, *_ in BY_LEAN])
def test_the_text_rule_leaves_to_lean(what, candidate, reason):
    assert refusal(candidate) is None


@pytest.mark.parametrize("candidate", honest(), ids=lambda candidate: candidate.statement)
def test_the_text_rule_lets_honest_proofs_pass(candidate):
    assert refusal(candidate) is None


def test_there_are_enough_attacks():
    assert len(BY_TEXT) + len(BY_LEAN) >= 40
    assert len({candidate for _, candidate, _ in BY_TEXT + BY_LEAN}) == len(BY_TEXT) + len(BY_LEAN)


@pytest.fixture(scope="module")
def verdicts(lean: ReplChecker) -> dict[Candidate, Verdict]:
    """What Lean says of everything that reaches it, the honest among the attacks, in one warm process."""
    candidates = [candidate for _, candidate, _ in BY_LEAN] + honest()
    mixed = candidates[::2] + candidates[1::2]
    return dict(zip(mixed, lean.check(mixed), strict=True))


@pytest.mark.parametrize(("what", "candidate", "reason"), BY_LEAN, ids=[what for what, *_ in BY_LEAN])
def test_lean_refuses(verdicts, what, candidate, reason):
    verdict = verdicts[candidate]
    assert not verdict.verified, f"a proof that {what} is accepted"
    assert verdict.reason == reason, verdict.detail
    assert verdict.detail
    assert (verdict.backend, verdict.toolchain, verdict.library_commit) == ("lean-wasm", "4.28.0", "core")


@pytest.mark.parametrize("candidate", honest(), ids=lambda candidate: candidate.statement)
def test_lean_accepts_honest_proofs(verdicts, candidate):
    verdict = verdicts[candidate]
    assert verdict.verified, (verdict.reason, verdict.detail)
    assert (verdict.reason, verdict.detail, verdict.position) == ("verified", "", None)


def test_all_of_it_took_one_process(verdicts, lean):
    assert lean.starts == 1


def test_errors_are_placed_in_the_proof(lean):
    wrong = f"{TRUE} by\n  have h : 1 = 1 := rfl\n  exact foo"
    [verdict] = lean.check([Candidate("t", TRUE, wrong)])
    assert verdict.position == (3, 8)
    assert "foo" in verdict.detail


def test_a_hole_that_the_text_does_not_show_is_seen_in_the_environment(lean, monkeypatch):
    """With the text rule out of the way, messages and environment alone must still refuse what it refuses."""
    monkeypatch.setattr("tasks.prove.repl.refusal", lambda candidate: None)
    tricks = {
        "by sorry": "sorry",
        "sorryAx _ false": "sorry",
        "u n\nwhere u (n : Nat) : n = n + 1 := sorry": "sorry",
        "by exact?": "error",
        "by simp\nend Temper.Candidate": "error",
    }
    false = [Candidate("t", FALSE, f"{FALSE} {proof}") for proof in tricks]
    found = lean.check(false)
    assert [verdict.reason for verdict in found] == list(tricks.values()), [verdict.detail for verdict in found]


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ("axiom u (n : Nat) : n = n + 1\ntheorem t (n : Nat) : n = n + 1 := u n", "axiom"),
        ("theorem t (n : Nat) : n = n := rfl", "statement_changed"),
        ("theorem u (n : Nat) : n + 0 = n := rfl", "error"),
        ("def t (n : Nat) : Nat := n", "error"),
        ('local infix:50 (priority := high) " = " => fun (_ _ : Nat) => True\ntheorem t (n : Nat) : n = n + 1 := trivial', "statement_changed"),
        ("instance u : HAdd Nat Nat Nat := ⟨fun a _ => a⟩\ntheorem t (n : Nat) : n = n + 1 := rfl", "statement_changed"),
        ("abbrev Nat := Unit\ntheorem t (n : Nat) : n = n + 1 := rfl", "error"),
    ],
)  # fmt: skip
def test_a_theorem_is_what_its_environment_holds(lean, monkeypatch, proof, reason):
    monkeypatch.setattr("tasks.prove.repl.refusal", lambda candidate: None)
    [verdict] = lean.check([Candidate("t", FALSE, proof)])
    assert verdict.reason == reason, verdict.detail


def test_candidates_cannot_reach_one_another(lean, monkeypatch):
    monkeypatch.setattr("tasks.prove.repl.refusal", lambda candidate: None)
    poison = [
        Candidate("t", TRUE, "axiom u (n : Nat) : n = n + 1\n" + f"{TRUE} rfl"),
        Candidate("t", TRUE, f"{TRUE} rfl\nend Temper.Candidate\nset_option autoImplicit true"),
        Candidate("t", TRUE, f'{TRUE} rfl\nmacro "rfl" : tactic => `(tactic| sorry)'),
        Candidate("t", TRUE, f"{TRUE} rfl /- and the rest"),
    ]
    use = Candidate("t", FALSE, f"{FALSE} u n")
    fine = Candidate("t", TRUE, f"{TRUE} by rfl")
    found = lean.check([each for one in poison for each in (one, use, fine)])
    assert [verdict.reason for verdict in found[1::3]] == ["error"] * len(poison)
    assert all(verdict.verified for verdict in found[2::3])


def test_the_rule_looks_at_code_and_not_at_comments():
    assert refusal(Candidate("t", TRUE, f"{TRUE} by -- no sorry needed\n  rfl")) is None
    assert refusal(Candidate("t", TRUE, f"{TRUE} /- axiom, end, import -/ rfl")) is None
    commented = "theorem t /- for all -/ (n : Nat) : -- by definition\n    n + 0 = n := rfl"
    assert refusal(Candidate("t", TRUE, commented)) is None


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("theorem t (n : Nat) : n + 0 = n", "end with"),
        ("theorem u (n : Nat) : n + 0 = n :=", "does not name"),
        ("def t : Nat :=", "begin with"),
        ("theorem t (n : Nat : n + 0 = n :=", "never closes"),
        ("theorem t : (sorry : Prop) :=", "holds"),
        ("theorem t : /- True :=", "cut off"),
        ("", "begin with"),
    ],
)
def test_a_statement_that_is_none_is_malformed(statement, fault):
    found = refusal(Candidate("t", statement, f"{statement} rfl"))
    assert found is not None
    assert found.reason == "malformed"
    assert fault in found.detail


@given(
    st.sampled_from([case for case in BY_TEXT if not re.search('--|"', case[1].proof)]),
    st.integers(0, 200),
    st.sampled_from([" ", "\n  ", " /- x -/ ", " -- x\n  "]),
)
def test_blanks_and_comments_never_make_an_attack_pass(case, at, blank):
    """Whatever is put between two tokens behind the statement, the candidate is still refused."""
    _, candidate, _ = case
    places = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", candidate.proof) if match.start() > len(FALSE)]
    if places:
        place = places[at % len(places)]
        proof = candidate.proof[:place] + blank + candidate.proof[place:]
        assert refusal(replace(candidate, proof=proof)) is not None
