"""Publishing: an out appears whole by one rename, or what was there before stays."""

import errno
import subprocess
from pathlib import Path

import pytest

from tasks.runtime.publish import publish, publish_curve, publish_json


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob(".*draft*"))


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "stale").write_text("old")
    with publish(out) as draft:
        draft.mkdir()
        (draft / "fresh").write_text("new")
        assert (out / "stale").exists()
    assert [path.name for path in out.iterdir()] == ["fresh"]
    assert not drafts(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    out = tmp_path / "scores.json"
    publish_json(out, {"loss": 1.0})
    with pytest.raises(error), publish(out) as draft:
        draft.write_text("half")
        raise error
    assert '"loss": 1.0' in out.read_text()
    assert not drafts(tmp_path)


def test_a_full_disk_loses_nothing_and_says_what_to_do(small_disk):
    out = small_disk / "model"
    out.mkdir()
    (out / "weights").write_bytes(b"1" * 1000)
    with pytest.raises(OSError, match=r"disk full while publishing .*; free some space") as caught, publish(out) as draft:
        draft.mkdir()
        (draft / "weights").write_bytes(b"2" * 200_000)
    assert caught.value.errno == errno.ENOSPC
    assert (out / "weights").read_bytes() == b"1" * 1000
    assert not drafts(small_disk)


def test_a_score_that_is_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        publish_json(tmp_path / "scores.json", {"loss": float("nan")})


def test_a_curve_has_one_column_a_key_in_order_of_appearance(tmp_path):
    publish_curve(tmp_path / "curve.csv", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "eval": 3.0}])
    assert (tmp_path / "curve.csv").read_text() == "step,loss,eval\n1,2.0,\n2,1.5,3.0\n"
