"""A theorem is put to a model in one way, in training and in proving; a model's answer counts from the statement on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.params import UserError
from tasks.runtime.theorem_prompt import EXPERT, Layout, Posed, Renderer, load_layout, recommented, save_layout, steps, tail
from tests.theorems import chain, sum_of, tokenizer, world

PAPER = Layout(text="theoremllama", system=EXPERT)


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def test_the_layout_of_the_paper_to_the_letter():
    record = sum_of(3)
    assert PAPER.question(record) == (
        "Natural language version of theorem and proof:\nsum_3\nThe theorem sum_3.\n\nIt takes 1 steps.\n\n"
        "### Lean4 version of theorem statement:\n```lean4\ntheorem sum_3 : 3 + 1 = 4 :=\n```\n\n"
        "### Lean4 version of theorem and proof:\n"
    )
    assert PAPER.answer(record.Statement, " by rfl") == "```lean4\ntheorem sum_3 : 3 + 1 = 4 := by rfl\n```"


@pytest.mark.parametrize("layout", [Layout(), PAPER], ids=["short", "theoremllama"])
def test_what_is_said_comes_back(layout):
    record = chain(5, 3)
    answer = layout.answer(record.Statement, layout.shown(record))
    assert layout.proof(record.Statement, answer).rstrip() == layout.shown(record)


def test_only_the_first_block_counts_and_one_that_never_closes_too():
    stated = sum_of(3).Statement
    assert PAPER.proof(stated, f"Sure:\n```lean4\n{stated} by rfl\n```\nor\n```lean4\n{stated} by omega\n```") == " by rfl"
    assert PAPER.proof(stated, f"```lean4\n{stated} by\n  rfl") == " by\n  rfl"


def test_a_proof_of_another_statement_is_not_cut_to_fit():
    """The weaker statement stays in the text, so the checker sees `theorem` where a proof should be."""
    weaker = "theorem sum_3 : 3 + 1 = 3 + 1 := by rfl"
    assert weaker in PAPER.proof(sum_of(3).Statement, f"```lean4\n{weaker}\n```")


def test_special_tokens_frame_a_prompt_once(words):
    renderer = Renderer(words, Layout(system="Prove it."))
    examples = renderer.encode([chain(1, 2), chain(2)])
    ids = renderer.prompt(examples, renderer.questions([chain(3)])[0])
    special = [token for token in words.convert_ids_to_tokens(ids) if token in words.all_special_tokens]
    assert special == ["<bos>", "<system>", "<user>", "<assistant>"]
    assert ids[-1] == words.convert_tokens_to_ids("<assistant>"), "the first generated token is the first of the answer"
    text = words.decode(ids)
    assert text.index("chain_1") < text.index("chain_2") < text.index("chain_3")


def test_an_example_reads_as_question_and_answer_do(words):
    renderer = Renderer(words, Layout(end="<eos>"))
    (one,) = renderer.encode([chain(4, 2)])
    assert one.answer[-1] == words.eos_token_id
    shown = words.decode(renderer.example(one))
    assert shown == Layout().question(chain(4, 2)) + Layout().shown(chain(4, 2)) + "<eos>\n\n"


def test_without_a_template_a_text_begins_as_the_tokenizer_says(words):
    plain = tokenizer()
    plain.chat_template = None
    renderer = Renderer(plain, Layout())
    assert renderer.after == []
    assert renderer.before == list(plain("")["input_ids"])


def test_an_end_that_is_no_token_is_refused(words):
    with pytest.raises(UserError, match=r"layout.end: '<\|reserved\|>' is not a token of the tokenizer"):
        Renderer(words, Layout(end="<|reserved|>"))


def test_without_words_nothing_of_them_is_in_the_prompt(words):
    text = Layout(informal=False, comments="none").question(chain(2)) + Layout(comments="none").shown(chain(2, 3))
    assert "steps" not in text
    assert "--" not in text


def test_comments_at_the_head_say_the_same_before_all_code():
    inline = " by\n  -- first /- inner -/ one\n  rw [h]\n  /- second -/\n  exact h -- third"
    assert recommented(inline, "head") == " /- first inner one second third -/ by\n  rw [h]\n  exact h"
    assert recommented(inline, "none") == " by\n  rw [h]\n  exact h"
    assert recommented(inline, "inline") == inline
    assert recommented(" by rfl", "head") == " by rfl"


@given(st.sampled_from([" ", "\n  ", "  "]))
def test_blanks_do_not_make_another_statement(blank):
    assert tail(f"theorem t :{blank}1 + 1 = 2 :={blank}by rfl", "theorem t : 1 + 1 = 2 :=") == f"{blank}by rfl"


def test_a_proof_that_does_not_begin_with_its_statement_is_refused():
    with pytest.raises(ValueError, match="does not begin with its statement"):
        tail("theorem t : 1 = 1 := rfl", "theorem t : 1 = 2 :=")


@pytest.mark.parametrize(
    ("proof", "count"),
    [(" by rfl", 1), (" by\n  rfl", 1), (" rfl", 1), (" by\n  -- say\n  intro h\n\n  exact h", 2), (" by simp\n  exact h", 2)],
)
def test_difficulty_counts_the_lines_of_the_tactic_block(proof, count):
    assert steps(Posed(Name="t", Statement="theorem t : p :=", Proof=f"theorem t : p :={proof}")) == count


def test_the_proposition_knows_a_theorem_under_another_name():
    one, other = "theorem a (n : Nat) : n = n :=", "theorem b  (n : Nat) :\n n = n :="
    assert Posed(Name="a", Statement=one).proposition == Posed(Name="b", Statement=other).proposition
    assert len({record.proposition for record in world()}) == len(world())


def test_a_layout_lives_beside_the_weights(tmp_path):
    layout = Layout(text="theoremllama", comments="head", end="<eos>")
    save_layout(layout, tmp_path)
    assert load_layout(tmp_path) == layout
    (tmp_path / "theorem_prompt.json").write_text('{"text": "long"}')
    with pytest.raises(UserError, match="not a layout of prompts"):
        load_layout(tmp_path)
    (tmp_path / "theorem_prompt.json").unlink()
    with pytest.raises(UserError, match="no such file; it says how theorems are put"):
        load_layout(tmp_path)
