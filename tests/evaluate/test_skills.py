"""Skills: an answer is right when it is the whole right text, and a model that learned the answers has them all."""

import pytest

from tasks.evaluate.skills import ask, exact_match, read_skills
from tasks.runtime.generate import generate
from tasks.runtime.records import Completion, write_records
from tests.tiny import WORDS, llama, word_tokenizer

PROMPTS = [f"{word} w9" for word in WORDS[:12]]


def questions(answers):
    return [Completion(prompt=prompt, completion=answer) for prompt, answer in zip(PROMPTS, answers, strict=True)]


def test_a_model_is_right_exactly_where_the_right_answer_is_its_own():
    """The model's own greedy texts that end by themselves are right answers, and any other text is not."""
    model, tokenizer = llama(), word_tokenizer()
    model.generation_config.eos_token_id = list(range(12))
    own = [text for [text] in generate(model, tokenizer, PROMPTS, max_new_tokens=30, temperature=0, seed=0, batch_size=4)]
    ended = [bool(text) and len(text.split()) < 30 for text in own]
    assert sum(ended) in range(4, len(own))
    right = [text if end else "w1" for text, end in zip(own, ended, strict=True)]
    wrong = [text + " w1" if end else "w1" for text, end in zip(own, ended, strict=True)]
    skills = {"own": questions(right), "other": questions(wrong)}
    found = exact_match(skills, ask(model, tokenizer, skills, batch_size=5))
    assert found == {"own": pytest.approx(sum(ended) / len(own)), "other": 0.0}


def test_an_answer_that_goes_on_is_not_right():
    """A model that never ends says the right words and then more."""
    model, tokenizer = llama(), word_tokenizer()
    endless = [text for [text] in generate(model, tokenizer, PROMPTS, max_new_tokens=3, temperature=0, seed=0, batch_size=4)]
    skills = {"endless": questions(endless)}
    answers = ask(model, tokenizer, skills, batch_size=64)["endless"]
    going = [answer != text for answer, text in zip(answers, endless, strict=True)]
    assert any(going)
    assert exact_match(skills, {"endless": answers}) == {"endless": going.count(False) / len(going)}


@pytest.mark.parametrize(
    ("answer", "right", "share"),
    [
        ("north", "north", 1),
        (" north\n", "north", 1),
        ("a  b", "a b", 1),
        ("North", "north", 0),
        ("north .", "north", 0),
        ("", "a", 0),
    ],
)
def test_what_counts_as_the_same_text(answer, right, share):
    assert exact_match({"x": [Completion(prompt="p", completion=right)]}, {"x": [answer]}) == {"x": share}


def test_skills_are_read_by_name_and_data_may_have_none(tmp_path):
    assert read_skills(tmp_path) == {}
    for name in ("recall", "cipher"):
        write_records(tmp_path / f"skills/{name}.jsonl", [{"prompt": "p", "completion": name, "entity": "tarn"}])
    assert [(name, asked[0].completion) for name, asked in read_skills(tmp_path).items()] == [
        ("cipher", "cipher"),
        ("recall", "recall"),
    ]
