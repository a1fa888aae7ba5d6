"""The lexer cuts Lean as Lean does, keeps every character, and takes linear time on any input."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.runtime.lean.lexer import Kind, kind, lex
from tests.runtime.lean import reference


def kinds(text):
    return [f"{kind(token).value} {token}" for token in lex(text).tokens if kind(token) is not Kind.SPACE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a -- b\nc", ["name a", "comment -- b", "name c"]),
        ("/- a /- b -/ c -/d", ["comment /- a /- b -/ c -/", "name d"]),
        ("/-/ a -/b", ["comment /-/ a -/", "name b"]),
        ("/-/- a -/ b", ["comment /-/- a -/", "name b"]),
        ("/- -- -/ a", ["comment /- -- -/", "name a"]),
        ("/- a --/b", ["comment /- a --/", "name b"]),
        ("-- /- a\nb", ["comment -- /- a", "name b"]),
        ("a/-b-/c--d", ["name a", "comment /-b-/", "name c", "comment --d"]),
        ("/-- doc -/ /-! mod -/", ["doc /-- doc -/", "module doc /-! mod -/"]),
        ('"a -- /- \\" b" c', ['string "a -- /- \\" b"', "name c"]),
        ('"\\\\" c', ['string "\\\\"', "name c"]),
        ('"{" c', ['string "{"', "name c"]),
        ('r"\\" c', ['string r"\\"', "name c"]),
        ('r#"a"b -- "# c', ['string r#"a"b -- "#', "name c"]),
        ('bar"x"', ["name bar", 'string "x"']),
        ('s!"{f "--"} {x}" c', ["name s!", 'string "{f "--"} {x}"', "name c"]),
        ('s!"\\{" c', ["name s!", 'string "\\{"', "name c"]),
        ('m!"{s!"{"}"}"} {{a}}" c', ["name m!", 'string "{s!"{"}"}"} {{a}}"', "name c"]),
        ("x' 'x' '\\n' '\\''", ["name x'", "character 'x'", "character '\\n'", "character '\\''"]),
        ("'\\x41' '\\u03b1' '\"'", ["character '\\x41'", "character '\\u03b1'", "character '\"'"]),
        ("h₁'.symm.trans' «a b».c", ["name h₁'.symm.trans'", "name «a b».c"]),
        ("«theorem /-» -- «", ["name «theorem /-»", "comment -- «"]),
        ("f '' s", ["name f", "symbol ''", "name s"]),
        ("f⁻¹'s' a", ["name f", "symbol ⁻", "symbol ¹", "symbol '", "name s'", "name a"]),
        ("λx ∑x 𝓕α", ["symbol λ", "name x", "symbol ∑", "name x", "name 𝓕α"]),
        ("`x.y ``z `(w)", ["quoted name `x.y", "quoted name ``z", "symbol `(", "name w", "symbol )"]),
        ("x:=1.5e-3|>y", ["name x", "symbol :=", "number 1.5e-3", "symbol |>", "name y"]),
    ],
)
def test_tokens(text, expected):
    assert kinds(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("def a := 1\n/- b /- c -/\n", 11, "comment never closes"),
        ("/-- doc", 0, "comment never closes"),
        ('a "b\\"', 2, "string never closes"),
        ('a "', 2, "string never closes"),
        ('r#"b"', 0, "raw string never closes"),
        ('s!"{ "a" ', 2, "string never closes"),
        ('s!"{ s!"{', 2, "string never closes"),
    ],
)
def test_what_never_closes_is_told_with_its_place(text, position, reason):
    lexed = lex(text)
    assert (lexed.fault.position, lexed.fault.reason) == (position, reason)
    assert lexed.tokens[-1] == text[position:]


COMMENTS = ["/-", "-/", "--", "--/", "/--", "/-!", "\n", " "]
STRINGS = ['"', "\\", "'", "'a'", "x'", "r#", 'r#"', '"#', 'r"', "s!", "{", "}"]
OTHERS = ["«", "»", ".", "(", "0x1F", "1.5", "`", "``", "theorem", "α₁", "λ", "ℝ", "!"]
TEXTS = st.lists(st.sampled_from(COMMENTS + STRINGS + OTHERS), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_the_tokens_are_those_of_the_reference(text):
    """But for symbols of several characters, which the reference cuts up."""
    whole = ("''", "#")
    cut = [list(token) if kind(token) is Kind.SYMBOL and not token.startswith(whole) else [token] for token in lex(text).tokens]
    assert [part for parts in cut for part in parts] == reference.tokens(text)


@settings(deadline=None)
@given(st.text() | TEXTS)
def test_nothing_is_lost_and_every_place_is_known(text):
    lexed = lex(text)
    assert "".join(lexed.tokens) == text
    assert all(text.startswith(token, start) for token, start in zip(lexed.tokens, lexed.starts[:-1], strict=True))
    assert lexed.starts[-1] == len(text)
    assert [lexed.tokens[i][:2] for i in lexed.blocks] == [token[:2] for token in lexed.tokens if token.startswith("/-")]


@pytest.mark.real
def test_real_files_are_cut_as_by_the_reference(real_data):
    """Every comment, string, name and number of the 40 smallest Compfiles files."""
    files = (real_data / "data/lean/compfiles.jsonl").read_text(encoding="utf-8").splitlines()
    for text in sorted((json.loads(line)["text"] for line in files), key=len)[:40]:
        words = [token for token in lex(text).tokens if kind(token) is not Kind.SYMBOL]
        assert words == [token for token in reference.tokens(text) if kind(token) is not Kind.SYMBOL]
