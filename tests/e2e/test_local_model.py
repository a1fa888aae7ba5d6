"""Real input: a pretrained Llama and real stories go through the same stages, the untouched model measures what is known."""

import json

import pytest

from tests.e2e.conftest import start

pytestmark = [pytest.mark.slow, pytest.mark.real]


def test_stories260k_is_tuned_averaged_and_measured(checkout, real_data):
    given = [f"base.path={real_data / 'models/stories260k'}", f"prompts.path={real_data / 'data/text/tinystories_1000.jsonl'}"]
    flags = [word for value in given for word in ("--set", value)]
    done = start(checkout, "flows.cli", "run", "--profile", "local-model", *flags, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seeds = json.loads((checkout / "data/scores/evaluate.json").read_text())["seeds"]
    first = next(iter(seeds.values()))
    assert first["base"]["perplexity"] == pytest.approx(4.774, abs=5e-4), "12 stories, first 200 tokens"
    assert {"base", "sft", "raft", "average"} <= set(first)
    assert (checkout / "data/report/index.html").stat().st_size > 10_000
    assert not (checkout / "data/models/pretrain").exists(), "nothing of Atlas is built"


def test_a_hub_name_without_a_network_fails_soon_and_says_what_to_do(checkout, real_data):
    flags = ["--set", "base.path=some-org/some-model", "--set", f"prompts.path={real_data / 'data/text/tinystories_1000.jsonl'}"]
    done = start(checkout, "flows.cli", "run", "--profile", "local-model", *flags, timeout=120)
    assert done.returncode == 1 or done.returncode == 2
    assert "hf download some-org/some-model --local-dir DIR" in done.stdout + done.stderr
