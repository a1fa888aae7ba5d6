"""What is remembered of a stage's runs: the last ones, and how long it usually takes with the same params."""

from flows.planning import history
from flows.planning.overlay import applied, effective_params
from tests.flows.checkout import command, make_checkout

FEW, MANY = {"steps": 3}, {"steps": 300}


def test_the_usual_time_is_the_median_of_the_runs_that_ended_well_with_the_same_params(tmp_path):
    for seconds, code, params in ((1.0, 0, FEW), (5.0, 0, FEW), (900.0, 0, MANY), (2.0, 0, FEW), (0.1, 1, FEW)):
        history.record(tmp_path, "sft", seconds, code, params)
    assert history.usual(tmp_path, "sft", FEW) == 2.0
    assert history.usual(tmp_path, "sft", MANY) == 900.0


def test_too_few_runs_make_no_median(tmp_path):
    history.record(tmp_path, "sft", 1.0, 0, FEW)
    assert history.usual(tmp_path, "sft", FEW, runs=2) is None
    assert history.usual(tmp_path, "raft", FEW) is None


def test_the_file_does_not_grow_for_ever(tmp_path):
    for number in range(history.KEPT_PARAMS + 3):
        history.record(tmp_path, "sft", number, 0, {"steps": number})
    for seconds in range(history.KEPT_RUNS + 5):
        history.record(tmp_path, "sft", 100.0 + seconds, 0, FEW)
    durations = history._read(tmp_path, "sft")["durations"]
    assert len(durations) == history.KEPT_PARAMS
    assert max(map(len, durations.values())) == history.KEPT_RUNS
    assert history.usual(tmp_path, "sft", FEW) == 114.5, "the newest twenty: 105 to 124"
    assert history.usual(tmp_path, "sft", {"steps": 0}) is None, "seen longest ago"


def test_a_file_from_before_durations_were_kept_is_read(tmp_path):
    entry = history.record(tmp_path, "sft", 1.0, 0, FEW)
    place = tmp_path / history.FOLDER / "sft.json"
    place.write_text(place.read_text().replace('"durations"', '"older"'))
    assert history.usual(tmp_path, "sft", FEW) is None
    assert history.last(tmp_path, "sft") == entry


def test_the_commit_is_marked_when_tracked_files_were_changed_and_not_for_the_params_of_a_run(tmp_path):
    assert history.commit(tmp_path) is None
    root = make_checkout(tmp_path / "c")
    clean = command(root, "git", "rev-parse", "HEAD").strip()
    assert history.commit(root) == clean
    with applied(root, effective_params(root, None, ["work.steps=9"])):
        assert "steps: 9" in (root / "params.yaml").read_text()
        assert history.commit(root) == clean
        (root / "work.py").write_text("# edited")
        assert history.commit(root) == f"{clean}+"
    command(root, "git", "checkout", "-q", "work.py")
    (root / "params.yaml").write_text("work: {steps: 7}\n")
    assert history.commit(root) == f"{clean}+"
    with applied(root, effective_params(root, None, ["work.steps=9"])):
        assert history.commit(root) == f"{clean}+"
