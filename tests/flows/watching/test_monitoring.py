"""What runs are watched for: the file, its faults, and what a run notices. What becomes of it: tests/flows/test_serve.py."""

import threading

import pytest

from flows.planning import history
from flows.watching import monitoring
from flows.watching.monitoring import OUT_OF_BOUNDS, PLACE, SLOW, Monitoring, Slow, Watch, read
from tasks.runtime.imports import ROOT
from tasks.runtime.params import UserError, read_yaml


@pytest.fixture
def sent(monkeypatch) -> list:
    """What would go to the server."""
    events = []
    monkeypatch.setattr(monitoring, "_emit", lambda event, resource, *_: events.append((event, resource)))
    return events


def write(root, text: str):
    (root / PLACE).parent.mkdir(parents=True, exist_ok=True)
    (root / PLACE).write_text(text)
    return root


class TestTheFile:
    def test_that_of_the_project_is_valid_and_its_bounds_are_scores_of_its_stages(self):
        stages = read_yaml(ROOT / "dvc.yaml")["stages"]
        known = read(ROOT)
        for bounds in (known.floors, known.ceilings):
            for of_profile in bounds.values():
                assert set(of_profile) <= set(stages)

    def test_without_one_the_defaults_hold(self, tmp_path):
        assert read(tmp_path) == Monitoring()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("slow: {factor: 0.5}", "slow.factor: Input should be greater than 1"),
            ("silent: 5", "silent: Extra inputs are not permitted; known are notify, silent_seconds"),
            ("floors: {default: {sft: {loss: low}}}", "floors.default.sft.loss: Input should be a valid number"),
            ("notify: [https://hooks.example.com/secret]", "notify.0: String should match pattern"),
        ],
    )
    def test_a_fault_names_the_file_and_the_key(self, tmp_path, text, says):
        with pytest.raises(UserError) as refused:
            read(write(tmp_path, text))
        assert str(refused.value).startswith(f"{PLACE}: ")
        assert says in str(refused.value)


class TestBounds:
    KNOWN = Monitoring(floors={"default": {"eval": {"accuracy": 0.5}}}, ceilings={"default": {"eval": {"skills.ece": 0.1}}})

    def test_scores_within_them_tell_nothing(self, tmp_path, sent):
        assert Watch(tmp_path, self.KNOWN, "default").scores("eval", {"accuracy": 0.5, "skills.ece": 0.1}) == []
        assert sent == []

    def test_each_score_past_one_is_told(self, tmp_path, sent):
        told = Watch(tmp_path, self.KNOWN, "default").scores("eval", {"accuracy": 0.25, "skills.ece": 0.3})
        assert told == ["eval: accuracy is 0.25, below its floor of 0.5", "eval: skills.ece is 0.3, above its ceiling of 0.1"]
        assert sent == [(OUT_OF_BOUNDS, "temper.score.eval.accuracy"), (OUT_OF_BOUNDS, "temper.score.eval.skills.ece")]

    def test_a_score_that_is_missing_or_no_number_is_told(self, tmp_path, sent):
        told = Watch(tmp_path, self.KNOWN, "default").scores("eval", {"skills.ece": float("nan")})
        assert told == ["eval: accuracy is missing; its bound is 0.5", "eval: skills.ece is nan, above its ceiling of 0.1"]

    def test_those_of_another_profile_do_not_hold(self, tmp_path, sent):
        assert Watch(tmp_path, self.KNOWN, "smoke").scores("eval", {"accuracy": 0.0}) == []


class TestPace:
    KNOWN = Monitoring(slow=Slow(factor=2, at_least_seconds=0, runs=1))

    def test_a_stage_that_takes_much_longer_is_told_while_it_runs(self, tmp_path, sent):
        history.record(tmp_path, "sft", 0.02, 0, {})
        with Watch(tmp_path, self.KNOWN, "default").pace("sft", {}):
            assert not threading.Event().wait(0.5)
            assert sent == [(SLOW, "temper.stage.sft")]

    def test_one_in_its_usual_time_and_one_that_is_not_known_are_not(self, tmp_path, sent):
        history.record(tmp_path, "sft", 30.0, 0, {})
        for params in ({}, {"steps": 1}):
            with Watch(tmp_path, self.KNOWN, "default").pace("sft", params):
                threading.Event().wait(0.05)
        assert sent == []

    def test_short_stages_may_vary(self):
        assert Slow().limit(usual=2.0) == 60.0
        assert Slow().limit(usual=100.0) == 300.0
