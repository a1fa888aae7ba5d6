"""Every file that a run leaves, cut short or with one bit flipped: found, mended, and no finished work done twice."""

import json
import os
import shutil
from contextlib import chdir

import pytest
from dvc.repo import Repo

from flows import locks, sound
from flows.doctor import examine, mend
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.lease import Lease

ALWAYS = {"noise", "after"}
"""Stages that DVC runs in any case."""


@pytest.fixture
def root(finished, tmp_path):
    """A checkout in which all has run, with a lease, a checkpoint and DVC's list of holders of a run that is over."""
    place = shutil.copytree(finished, tmp_path / "checkout")
    with Lease(place / ".temper/work/count", "count"):
        pass
    for step in (1, 2):
        with Checkpoints(place / ".temper/checkpoints/count/0123/zero0x1").save(step) as draft:
            (draft / "weights").write_text(f"step {step}")
    (place / locks.RWLOCK).write_text(json.dumps({"write": {}, "read": {}}))
    return place


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def harm(place, how) -> None:
    """Damage a file as a bad disk does: no time and no right of it changes."""
    before = place.stat()
    content = how(place.read_bytes())
    place.chmod(0o644)
    place.write_bytes(content)
    place.chmod(before.st_mode)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


def outs(root) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "data").rglob("*")) if path.is_file()}


def ran(root) -> list[str]:
    return [line for line in (root / "ran.log").read_text().split() if line not in ALWAYS]


def reproduce(root) -> None:
    with chdir(root), Repo() as repo:
        repo.reproduce()


PLACES = {
    "dvc.lock": lambda root: root / "dvc.lock",
    "dvc rwlock": lambda root: root / locks.RWLOCK,
    "lease": lambda root: root / ".temper/work/count/lease",
    "checkpoint": lambda root: root / ".temper/checkpoints/count/0123/zero0x1/step-00000002/weights",
    "cache": lambda root: sound.cached(root, sound.md5(root / "data/count.txt")),
    "cache of a folder": lambda root: next((root / ".dvc/cache/files/md5").glob("??/*.dir")),
    "out": lambda root: root / "data/words/a.txt",
}


@pytest.mark.parametrize("how", [cut, flipped], ids=["cut", "flipped"])
@pytest.mark.parametrize("what", PLACES)
def test_it_is_found_and_mended_and_nothing_is_done_twice(root, what, how):
    whole, done, place = outs(root), ran(root), PLACES[what](root)
    harm(place, how)
    faults = [finding for finding in examine(root) if finding.state == "fault"]
    assert what.removesuffix(" of a folder") in {finding.what for finding in faults}
    assert all(finding.repair for finding in faults)
    mend(examine(root))
    assert [finding for finding in examine(root) if finding.state == "fault"] == []
    reproduce(root)
    assert outs(root) == whole
    assert ran(root) == done


def test_an_out_that_dvc_has_put_back_from_a_damaged_object_is_made_again(root):
    """DVC copies a flipped object without reading it; the stage that would read it is not given it."""
    whole, done = outs(root), ran(root)
    harm(sound.cached(root, sound.md5(root / "data/words/a.txt")), flipped)
    shutil.rmtree(root / "data/words")
    with chdir(root), Repo() as repo:
        repo.checkout("data/words")
    assert outs(root) != whole, "DVC has not noticed"
    (lost,) = sound.mend_inputs(root, ["data/words/a.txt"], ["words"])
    assert str(lost) == "data/words/a.txt is not what words made"
    assert not (root / "data/words/a.txt").exists()
    assert (root / locks.DAMAGED / "data/words/a.txt").exists(), "the damaged bytes are kept"
    reproduce(root)
    assert outs(root) == whole
    assert ran(root) == [*done, "words"]


def test_a_damaged_object_is_fetched_where_the_remote_has_it(root, tmp_path):
    with chdir(root), Repo() as repo, repo.config.edit() as config:
        config["remote"] = {"store": {"url": str(tmp_path / "remote")}}
        config["core"]["remote"] = "store"
    with chdir(root), Repo() as repo:
        repo.push()
    place = sound.cached(root, sound.md5(root / "data/count.txt"))
    (root / "data/count.txt").unlink()
    harm(place, flipped)
    mended = [finding.found for finding in mend(examine(root)) if finding.state == "mended"]
    assert any(found.endswith("put back from the remote") for found in mended)
    assert sound.md5(place) == place.parent.name + place.name


def test_a_file_is_hashed_once_and_again_when_it_was_written(root, monkeypatch):
    hashed = []
    honest = sound.md5
    monkeypatch.setattr(sound, "md5", lambda path: hashed.append(path) or honest(path))
    assert sound.damaged(root) == []
    first = len(hashed)
    assert sound.damaged(root) == []
    assert len(hashed) == first
    (root / "data/count.txt").write_text("another\n")
    assert [one.path for one in sound.damaged(root)] == ["data/count.txt"]
    assert len(hashed) == first + 1
    sound.damaged(root, deep=True)
    assert len(hashed) == 2 * first + 1


def test_a_damaged_memory_of_hashes_costs_only_time(root):
    (root / ".temper").mkdir(exist_ok=True)
    (root / sound.MEMO).write_bytes(b"SQLite format 3\x00 and then nothing of the kind" * 100)
    assert sound.damaged(root) == []


class TestARunMendsByItself:
    def test_half_a_lock_file_keeps_the_entries_that_are_whole(self, root):
        whole, done = outs(root), ran(root)
        place = root / "dvc.lock"
        place.write_bytes(place.read_bytes()[:-20])
        (notice,) = locks.recover(root)
        assert notice.startswith("a killed DVC left half of dvc.lock")
        assert locks.lock_fault(place) is None
        assert "  words:\n" in place.read_text()
        reproduce(root)
        assert outs(root) == whole
        assert ran(root) == done

    def test_nothing_of_a_lock_file_is_made_up_for_by_the_run_cache(self, root):
        """DVC opens the file before it writes: killed in between, it leaves no byte, and no later DVC would start."""
        whole, done = outs(root), ran(root)
        (root / "dvc.lock").write_text("")
        assert locks.lock_fault(root / "dvc.lock")
        assert locks.recover(root) == [
            "a killed DVC left nothing of dvc.lock; the entries of all stages are taken from the run cache"
        ]
        assert locks.lock_fault(root / "dvc.lock") is None
        reproduce(root)
        assert outs(root) == whole
        assert ran(root) == done

    @pytest.mark.parametrize("draft", [None, "", "cmd: mkdir -p data/words && cp src/a"])
    def test_an_entry_of_the_run_cache_that_was_begun_is_removed(self, root, draft):
        """DVC makes the folder, writes a draft there, and moves it: with nothing whole in the folder it fails."""
        whole, done = outs(root), ran(root)
        folder = next((root / locks.RUNS).glob("??/*"))
        for entry in folder.iterdir():
            entry.unlink()
        if draft is not None:
            (folder / "tmpdraft.tmp").write_text(draft)
        (root / "dvc.lock").unlink()
        assert locks.recover(root) == ["a killed DVC left 1 entry of its run cache unfinished; removed"]
        assert not folder.exists()
        assert locks.recover(root) == []
        reproduce(root)
        assert outs(root) == whole
        assert len(ran(root)) == len(done) + 1, "the one stage that nobody knows of"

    def test_a_draft_that_hides_a_whole_entry_of_the_run_cache_is_removed(self, root):
        whole, done = outs(root), ran(root)
        for folder in (root / locks.RUNS).glob("??/*"):
            (folder / "tmpdraft.tmp").write_text("")
        (root / "dvc.lock").unlink()
        (fault,) = [one for one in mend(examine(root)) if one.what == "dvc run cache"]
        assert fault.state == "mended"
        reproduce(root)
        assert outs(root) == whole
        assert ran(root) == done

    def test_what_a_living_dvc_has_begun_is_its_own(self, root, monkeypatch):
        draft = next((root / locks.RUNS).glob("??/*")) / "tmpdraft.tmp"
        draft.write_text("")
        assert locks.unfinished_runs(root) == [draft]
        monkeypatch.setattr(locks, "dead_holders", lambda root: [])
        (root / locks.RWLOCK).write_text(json.dumps({"write": {"/a": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
        assert locks.unfinished_runs(root) == []

    def test_half_a_list_of_holders_is_removed(self, root):
        (root / locks.RWLOCK).write_text("")
        assert locks.recover(root) == [f"a killed DVC left half of {locks.RWLOCK}; it is removed"]
        assert not (root / locks.RWLOCK).exists()

    def test_a_sound_checkout_is_left_alone(self, root):
        before = (root / "dvc.lock").read_bytes()
        assert locks.recover(root) == []
        assert (root / "dvc.lock").read_bytes() == before


def test_a_clock_set_forward_makes_no_living_dvc_a_dead_one(root, monkeypatch):
    """The list was written before the clock jumped: by the clock its holder seems to have started after it."""
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}
    place = root / locks.RWLOCK
    place.write_text(json.dumps({"write": {"/a": entry}, "read": {}}))
    os.utime(place, (1e9, 1e9))
    monkeypatch.setattr(locks.psutil.Process, "cmdline", lambda self: ["python", "-m", "dvc", "repro"])
    assert locks.dead_holders(root) == []
