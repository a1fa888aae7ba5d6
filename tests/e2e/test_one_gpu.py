"""The profile for hub models on a GPU, with real parts small enough for any machine: the same stages, the same harness."""

import json

import pytest

from tests.e2e.conftest import start
from tests.evaluate.local_tasks import ABILITIES, TASKS, write_tasks

pytestmark = [pytest.mark.slow, pytest.mark.real]

SECTIONS = ("sft", "preferences", "reward", "raft", "harness")
SIZES = [
    "prompts.prompt_chars=160 prompts.heldout_rows=0:4 prompts.perplexity_rows=0:4 prompts.sft_records=16 prompts.prompts=12",
    "sft.max_length=256 sft.heldout=4 preferences.prompts=12 preferences.max_new_tokens=8",
    "reward.max_length=384 reward.batch_size=4",
    "raft.seeds=[0] raft.iterations=2 raft.prompts=4 raft.samples=2 raft.max_new_tokens=8 average.w_pre=[0.2]",
    f"harness.tasks=[{','.join(TASKS)}] harness.abilities={json.dumps(ABILITIES)}",
]
"""What is smaller than in the profile; the rest is as it stands there."""


def flags(real_data):
    given = [f"base.path={real_data / 'models/stories260k'}"]
    given += [f"prompts.path={real_data / 'data/preference/hh_harmless_test.jsonl'}"]
    given += [word for line in SIZES[:-1] for word in line.split()] + SIZES[-1].split(" ", 1)
    given += [f"{section}.threads=1" for section in SECTIONS]
    return ["--profile", "one-gpu", *(word for value in given for word in ("--set", value))]


def test_hh_rlhf_goes_through_the_pipeline_and_the_tax_is_measured_by_lm_eval(checkout, real_data):
    pytest.importorskip("lm_eval")
    write_tasks(checkout / "data/harness", rows=2)
    planned = start(checkout, "flows.cli", "plan", "harness", *flags(real_data), timeout=300)
    assert planned.returncode == 0, planned.stdout[-2000:] + planned.stderr[-2000:]
    assert "9 of 9 stages to run" in planned.stdout
    done = start(checkout, "flows.cli", "run", "harness", *flags(real_data), timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    fetched = json.loads((checkout / "data/scores/fetch-prompts.json").read_text())
    assert (fetched["rejected"], fetched["sft"]) == (4, 16)
    for models, names in (("raft", {"0/iteration-1", "0/iteration-2"}), ("average", {"0/w_pre-0.2"})):
        found = json.loads((checkout / f"data/studies/harness/{models}.json").read_text())
        assert set(found["models"]) == {"before", *names}
        assert all(set(tax) == set(ABILITIES) for tax in found["tax"].values())
