"""The lexer cuts Lean as Lean does, keeps every character, and takes linear time on any input."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.lean.lexer import Kind, kind, lex
from tests.data.lean import reference


def kinds(text):
    return [(kind(token), token) for token in lex(text).tokens if kind(token) is not Kind.SPACE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a -- b\nc", [(Kind.NAME, "a"), (Kind.COMMENT, "-- b"), (Kind.NAME, "c")]),
        ("/- a /- b -/ c -/d", [(Kind.COMMENT, "/- a /- b -/ c -/"), (Kind.NAME, "d")]),
        ("/-/ a -/b", [(Kind.COMMENT, "/-/ a -/"), (Kind.NAME, "b")]),
        ("/-/- a -/ b", [(Kind.COMMENT, "/-/- a -/"), (Kind.NAME, "b")]),
        ("/- -- -/ a", [(Kind.COMMENT, "/- -- -/"), (Kind.NAME, "a")]),
        ("/- a --/b", [(Kind.COMMENT, "/- a --/"), (Kind.NAME, "b")]),
        ("-- /- a\nb", [(Kind.COMMENT, "-- /- a"), (Kind.NAME, "b")]),
        ("/-- doc -/ /-! mod -/", [(Kind.DOC, "/-- doc -/"), (Kind.MODULE_DOC, "/-! mod -/")]),
        ('"a -- /- \\" b" c', [(Kind.STRING, '"a -- /- \\" b"'), (Kind.NAME, "c")]),
        ('"\\\\" c', [(Kind.STRING, '"\\\\"'), (Kind.NAME, "c")]),
        ('r"\\" c', [(Kind.STRING, 'r"\\"'), (Kind.NAME, "c")]),
        ('r#"a"b -- "# c', [(Kind.STRING, 'r#"a"b -- "#'), (Kind.NAME, "c")]),
        ('bar"x"', [(Kind.NAME, "bar"), (Kind.STRING, '"x"')]),
        ('s!"{f "--"} {x}" c', [(Kind.NAME, "s!"), (Kind.STRING, '"{f "--"} {x}"'), (Kind.NAME, "c")]),
        ('s!"\\{" c', [(Kind.NAME, "s!"), (Kind.STRING, '"\\{"'), (Kind.NAME, "c")]),
        ('m!"{s!"{"}"}"} {{a}}" c', [(Kind.NAME, "m!"), (Kind.STRING, '"{s!"{"}"}"} {{a}}"'), (Kind.NAME, "c")]),
        ('"{" c', [(Kind.STRING, '"{"'), (Kind.NAME, "c")]),
        ("x' 'x' '\\n' '\\x41' '\\u03b1' '\\'' '\"'", [(Kind.NAME, "x'")] + [(Kind.CHARACTER, c) for c in ("'x'", "'\\n'", "'\\x41'", "'\\u03b1'", "'\\''", "'\"'")]),
        ("h₁'.symm.trans' «a b».c", [(Kind.NAME, "h₁'.symm.trans'"), (Kind.NAME, "«a b».c")]),
        ("«theorem /-» -- «", [(Kind.NAME, "«theorem /-»"), (Kind.COMMENT, "-- «")]),
        ("f '' s", [(Kind.NAME, "f"), (Kind.SYMBOL, "''"), (Kind.NAME, "s")]),
        ("f⁻¹'s' a", [(Kind.NAME, "f"), (Kind.SYMBOL, "⁻"), (Kind.SYMBOL, "¹"), (Kind.SYMBOL, "'"), (Kind.NAME, "s'"), (Kind.NAME, "a")]),
        ("λx ∑x 𝓕α", [(Kind.SYMBOL, "λ"), (Kind.NAME, "x"), (Kind.SYMBOL, "∑"), (Kind.NAME, "x"), (Kind.NAME, "𝓕α")]),
        ("`x.y ``z `(w)", [(Kind.QUOTED_NAME, "`x.y"), (Kind.QUOTED_NAME, "``z"), (Kind.SYMBOL, "`("), (Kind.NAME, "w"), (Kind.SYMBOL, ")")]),
        ("x:=1.5e-3|>y", [(Kind.NAME, "x"), (Kind.SYMBOL, ":="), (Kind.NUMBER, "1.5e-3"), (Kind.SYMBOL, "|>"), (Kind.NAME, "y")]),
        ("a/-b-/c--d", [(Kind.NAME, "a"), (Kind.COMMENT, "/-b-/"), (Kind.NAME, "c"), (Kind.COMMENT, "--d")]),
    ],
)  # fmt: skip
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


FRAGMENTS = "/- -/ -- --/ /-- /-! \" \\ ' 'a' x' « » . r# r#\" \"# r\" s! { } ( 0x1F 1.5 ` `` theorem α₁ λ ℝ ! \n".split(" ")
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, " ", "\n"]), max_size=40).map("".join)


@settings(max_examples=500)
@given(TEXTS)
def test_the_tokens_are_those_of_the_reference(text):
    """But for symbols of several characters, which the reference cuts up."""
    whole = ("''", "#")
    cut = [list(token) if kind(token) is Kind.SYMBOL and not token.startswith(whole) else [token] for token in lex(text).tokens]
    assert [part for parts in cut for part in parts] == reference.tokens(text)


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
