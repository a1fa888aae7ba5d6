"""The stage that takes theorems out of Lean files keeps count of all it was given."""

import json

import pytest

from tasks.data.extract import Params, main
from tasks.data.lean.record import Rejected, Theorem
from tasks.runtime.params import UserError
from tasks.runtime.records import read_records
from tasks.runtime.theorems import Told

FILES = {
    "A.lean": b"theorem a : P := p\ntheorem b : Q := by sorry\ntheorem a : R := r\ntheorem c : S\ndef f := 1\n",
    "B.lean": b"theorem d : P := p\n/- cut off in the middle",
    "C.lean": b"theorem e : P := p -- caf\xe9\n",
}


def start(tmp_path, lean, **values):
    main(Params(commit="c0ffee", **values), None, lean=lean, out=tmp_path / "out", scores=tmp_path / "s.json")
    return json.loads((tmp_path / "s.json").read_text())


def test_every_declaration_of_a_folder_is_somewhere(tmp_path):
    (tmp_path / "lean").mkdir()
    for name, content in FILES.items():
        (tmp_path / "lean" / name).write_bytes(content)
    scores = start(tmp_path, tmp_path / "lean")
    (kept,) = read_records(tmp_path / "out/theorems.jsonl", Theorem)
    assert (kept.Name, kept.File_path, kept.Commit) == ("a", "A.lean", "c0ffee")
    rejected = read_records(tmp_path / "out/rejected.jsonl", Rejected)
    assert [(row.Name, row.Reason) for row in rejected] == [
        ("a", "name taken"),
        ("c", "no proof"),
        ("f", "not a theorem: def"),
        ("d", "cut off"),
        ("", "not UTF-8"),
    ]
    assert [row.Name for row in read_records(tmp_path / "out/unfinished.jsonl", Theorem)] == ["b"]
    assert (scores["theorems"], scores["unfinished"], sum(scores["rejected"].values())) == (1, 1, 5)


def test_json_lines_are_read_too_and_what_comes_out_can_be_aligned(tmp_path):
    rows = [{"file": name, "text": content.decode("latin-1")} for name, content in FILES.items()]
    (tmp_path / "files.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores = start(tmp_path, tmp_path / "files.jsonl", unfinished=True)
    told = read_records(tmp_path / "out/theorems.jsonl", Told)
    assert [(row.idx, row.Name, row.split, row.told_by) for row in told] == [
        (0, "a", "train", "source"),
        (1, "b", "train", "source"),
        (2, "e", "train", "source"),
    ]
    assert scores["kinds"] == {"theorem": 3}


def test_a_folder_without_theorems_is_refused(tmp_path):
    (tmp_path / "lean").mkdir()
    with pytest.raises(UserError, match="holds no finished theorem"):
        start(tmp_path, tmp_path / "lean")


@pytest.mark.real
def test_real_blueprint_files_come_with_the_words_of_their_index(tmp_path, real_data):
    """40 files; the index has 622 pairs, and one lemma more has both texts. Unfinished proofs are set aside, not lost."""
    scores = start(tmp_path, real_data / "data/lean/pnt.jsonl", unfinished=True)
    assert scores["with_words"] == 623
    assert (scores["theorems"], sum(scores["rejected"].values())) == (2442, 363)
    finished = start(tmp_path, real_data / "data/lean/pnt.jsonl")
    assert finished["theorems"] + finished["unfinished"] == 2442
    assert finished["unfinished"] > 0
