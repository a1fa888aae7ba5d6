"""Models after RLHF are found by what a folder holds, and their answers are named after them."""

import pytest

from tasks.runtime.params import UserError
from tasks.runtime.posts import SINGLE, answers_file, find_posts


def folders(place, *names):
    for name in names:
        (place / name).mkdir(parents=True)
    return place


def test_a_model_folder_is_itself(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_posts(tmp_path) == {SINGLE: tmp_path}


def test_a_run_is_its_last_iteration_by_number(tmp_path):
    folders(tmp_path, "iteration-2", "iteration-10", "iteration-9", "iteration-best")
    assert find_posts(tmp_path) == {SINGLE: tmp_path / "iteration-10"}


def test_seeds_each_have_a_last_iteration_and_come_in_order(tmp_path):
    folders(tmp_path, "10/iteration-1", "2/iteration-1", "2/iteration-3", "notes")
    assert list(find_posts(tmp_path).items()) == [("2", tmp_path / "2/iteration-3"), ("10", tmp_path / "10/iteration-1")]


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither a model folder \(config.json\) nor the seeds of a RAFT run"):
        find_posts(folders(tmp_path, "0/other"))


def test_the_answers_of_a_seed_are_named_after_it():
    assert [answers_file(name) for name in ("0", "12", SINGLE)] == ["0.jsonl", "12.jsonl", "proxy.jsonl"]
