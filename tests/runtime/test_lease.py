"""The lease: one holder, tokens that only grow, and a stale holder that cannot publish."""

import pytest

from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path):
    with Lease(tmp_path, "sft"), pytest.raises(UserError, match=r"sft is already being run by 1 pid \d+"), Lease(tmp_path, "sft"):
        pass


def test_tokens_grow_from_holder_to_holder(tmp_path):
    tokens = []
    for _ in range(3):
        with Lease(tmp_path, "sft") as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]


def test_a_damaged_lease_file_can_be_taken(tmp_path):
    (tmp_path / "lease").write_bytes(b"\xff\x00garbage")
    with Lease(tmp_path, "sft") as lease:
        lease.check()
        assert lease.token == 1


def test_a_holder_whose_folder_was_taken_over_may_not_publish(tmp_path):
    with Lease(tmp_path, "sft") as old:
        (tmp_path / "lease").unlink()
        with Lease(tmp_path, "sft"), Lease(tmp_path / "other", "sft"):
            (tmp_path / "lease").write_text("7 pid 1\n")
            with pytest.raises(RuntimeError, match="was lost to a later holder"):
                old.check()
