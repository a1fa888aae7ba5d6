"""The profile llama3-8b is the paper's configuration, and every section of the theorem study accepts it."""

import re

import pytest
from ruamel.yaml import YAML

from flows.planning.overlay import effective_params
from tasks.runtime.imports import ROOT
from tasks.runtime.params import check_section, params_of

PARAMS = effective_params(ROOT, "llama3-8b")
STUDY = (ROOT / "flows/studies/theorems/dvc.yaml").read_text()
MODULES = sorted(set(re.findall(r"python -m (tasks\.[\w.]+)", STUDY)) | {"tasks.prove.core_subset", "tasks.prove.prove_core"})


@pytest.mark.parametrize("module", MODULES)
def test_every_section_of_the_study_is_valid(module):
    if module == "tasks.data.obt":
        PARAMS["obt"].update(endpoint="http://localhost:1/v1", endpoint_model="any")  # what the profile asks the user for
    check_section(params_of(module), PARAMS, "llama3-8b")


def test_the_values_are_those_of_the_paper_and_its_code():
    prover, prove = PARAMS["prover"], PARAMS["prove"]
    assert prover["learning_rate"] == 1e-5
    assert round(prover["warmup"] * 106_852 / prover["batch_size"], -2) == 1000
    assert (prove["samples"], prove["batch"], prove["examples"]) == (128, 4, 16)
    assert (prove["temperature_low"], prove["temperature_high"], prove["top_p"]) == (0.6, 0.9, 0.9)
    assert (prove["repetition_penalty"], prove["max_new_tokens"], prove["rounds"]) == (1.1, 1024, 2)
    assert PARAMS["prover-data"]["layout"]["end"] == "<|reserved_special_token_26|>"
    for section in ("prove", "prove-core", "theorems", "core-subset"):
        assert PARAMS[section]["checker"]["backend"] == "lean-repl"


def test_the_study_reads_the_real_model_where_the_profile_names_it():
    stages = YAML(typ="safe").load(STUDY)["stages"]
    assert "${lean.base}" in stages["prover"]["deps"]
    assert "${lean.tokenizer}" in stages["prover-data"]["deps"]
    assert PARAMS["lean"]["base"] == PARAMS["lean"]["tokenizer"] == PARAMS["base"]["model"]
