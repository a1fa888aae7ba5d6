"""A commented proof is accepted only if it is the same code in the same columns, with a comment that says something new."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.runtime.lean.comments import code_lines, comments, refusal

PROOF = "theorem t (x : ℕ) : x + 0 = x := by\n  constructor\n  · simp\n  · ring"


@pytest.mark.parametrize(
    "commented",
    [
        PROOF.replace("  constructor", "  -- two goals\n  constructor"),
        PROOF.replace("· simp", "· simp -- the first goal"),
        PROOF.replace("  · ring", "\n  /- the second /- and last -/ goal\n     is algebra -/\n\n  · ring   "),
        "/- we show that -/\n" + PROOF + "\n-- done",
    ],
)
def test_comments_of_every_form_are_accepted(commented):
    assert refusal(PROOF, commented) is None


@pytest.mark.parametrize(
    ("commented", "reason"),
    [
        (PROOF.replace("ring", "omega") + " -- algebra", "code changed"),
        (PROOF.replace("  · ring", "    · ring") + " -- algebra", "code changed"),
        (PROOF.replace("  · ring", "  · -- ring"), "code changed"),
        (PROOF.replace("simp", "/- first -/ simp"), "code changed"),
        (PROOF.replace("x + 0", "x/- -/ + 0"), "code changed"),
        (PROOF.replace("  · simp", "  /-- first -/\n  · simp"), "code changed"),
        (PROOF + "\n  -- done\n  sorry", "code changed"),
        (PROOF + "\n  /- done", "cut off"),
        (PROOF, "no comment"),
        (PROOF + "\n  -- ---", "no content"),
    ],
)
def test_what_is_no_comment_or_says_nothing_is_refused(commented, reason):
    assert refusal(PROOF, commented) == reason


def test_a_marker_inside_a_string_is_code():
    proof = 'theorem t : "-- no /- comment".length = 16 := by\n  decide'
    assert comments(proof) == []
    assert refusal(proof, proof + " -- by computation") is None
    assert refusal(proof, proof.replace("no", "a") + " -- by computation") == "code changed"


def test_both_sides_are_stripped_and_only_new_comments_count():
    proof = PROOF + " -- aesop?"
    assert refusal(proof, PROOF + " -- algebra") == "nothing added"
    assert refusal(proof, proof) == "nothing added"
    assert refusal(proof, proof + "\n-- algebra") is None
    assert refusal(proof, proof + "\n--") == "no content"


LINES = st.lists(st.sampled_from(["  simp", "  · ring", "    rw [h] at h'", '  exact "--"', "  case a => omega"]), min_size=1)
COMMENT = st.text("ab-/ '\"", max_size=6).map(lambda text: "-- " + text)


@settings(deadline=None)
@given(LINES, st.data())
def test_line_comments_anywhere_leave_the_code(lines, data):
    """By construction: whatever is put behind a line, or on lines of its own, is what the strip takes away."""
    commented = []
    for line in lines:
        if data.draw(st.booleans()):
            commented.append(data.draw(COMMENT))
        commented.append(line + data.draw(st.sampled_from(["", " ", " -- why", " -- a 'quote\" /- -/"])))
    assert code_lines("\n".join(commented)) == lines


@settings(deadline=None)
@given(LINES, st.data())
def test_a_changed_character_of_code_is_noticed(lines, data):
    proof = "\n".join(lines)
    place = data.draw(st.sampled_from([i for i, character in enumerate(proof) if character not in " \n\"'-"]))
    mutated = proof[:place] + ("y" if proof[place] != "y" else "z") + proof[place + 1 :]
    assert refusal(proof, mutated + "\n-- why") == "code changed"


@pytest.fixture(scope="module")
def released(real_data):
    """The rows of the released aligned file that have a commented proof."""
    rows = json.loads((real_data / "data/lean/minif2f_valid_commented.json").read_text(encoding="utf-8"))
    return [(row["Proof"], row["Commented_proof"]) for row in rows if "Commented_proof" in row]


@pytest.mark.real
def test_the_released_rows_pass_only_when_both_sides_are_stripped(released):
    assert len(released) == 93
    assert sum(code_lines(proof) == code_lines(commented) for proof, commented in released) == 93
    one_sided = [[line.rstrip() for line in proof.split("\n") if line.strip()] for proof, _ in released]
    assert sum(proof == code_lines(commented) for proof, (_, commented) in zip(one_sided, released, strict=True)) == 19


@pytest.mark.real
def test_the_released_rows_that_add_no_comment_are_refused(released):
    """The specification counts 3 without any comment and 14, these among them, with no more than before."""
    assert Counter(refusal(proof, commented) for proof, commented in released) == {
        None: 79,
        "nothing added": 11,
        "no comment": 3,
    }


@pytest.mark.real
def test_released_rows_with_changed_code_are_refused(released):
    for proof, commented in released:
        last = code_lines(commented)[-1]
        for change in (last + " <;> simp", " " + last, last[:-1], "  sorry"):
            where = commented.rindex(last)
            assert refusal(proof, commented[:where] + change + commented[where + len(last) :]) == "code changed"
