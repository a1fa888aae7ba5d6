"""Records: a malformed line stops the stage with file, line and reason, or goes aside with its reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.params import UserError
from tasks.runtime.records import Completion, Preference, Prompt, Rejects, Text, read_records, write_records

GOOD = '{"prompt": "two plus two", "completion": "four"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not JSON"),
        ('{"prompt": "a"}', "completion: Field required"),
        ('{"prompt": 3, "completion": "b"}', "prompt: Input should be a valid string"),
        ('{"prompt": "", "completion": "b"}', "prompt: String should have at least 1 character"),
        ("[1, 2]", "line: Input should be a valid dictionary"),
        ('"text"', "line: Input should be a valid dictionary"),
    ],
)
def test_a_bad_line_names_file_line_and_reason(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(UserError) as caught:
        read_records(path, Completion)
    assert f"{path}:3: not a Completion record" in str(caught.value)
    assert said in str(caught.value)


def test_quarantine_keeps_the_line_and_its_reason(tmp_path):
    path, aside = tmp_path / "rows.jsonl", tmp_path / "rejects.jsonl"
    path.write_text(f"{GOOD}\n{{bad\n{GOOD}\n")
    rejects = Rejects()
    assert len(read_records(path, Completion, "quarantine", rejects)) == 2
    rejects.save(aside)
    (row,) = [json.loads(line) for line in aside.read_text().splitlines()]
    assert row["line"] == 2
    assert row["text"] == "{bad"
    assert "not JSON" in row["reason"]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(UserError, match="holds no Text record"):
        read_records(tmp_path / "rows.jsonl", Text)


def test_a_file_of_only_bad_lines_is_refused_even_in_quarantine(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{\n{\n")
    with pytest.raises(UserError, match="2 bad lines"):
        read_records(tmp_path / "rows.jsonl", Text, "quarantine", Rejects())


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_records(tmp_path / "none.jsonl", Text)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_records(tmp_path / "binary.jsonl", Text)


def test_foreign_fields_are_kept(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "exposure": 4}\n')
    (row,) = read_records(tmp_path / "rows.jsonl", Prompt)
    assert row.model_dump() == {"prompt": "a", "exposure": 4}


@given(st.lists(st.tuples(*[st.text(min_size=1).filter(lambda s: "\x00" not in s)] * 3), min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory, triples):
    path = tmp_path_factory.mktemp("records") / "rows.jsonl"
    rows = [Preference(prompt=p, chosen=c, rejected=r) for p, c, r in triples]
    assert write_records(path, rows) == len(rows)
    assert read_records(path, Preference) == rows
