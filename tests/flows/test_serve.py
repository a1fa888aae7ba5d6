"""`temper serve`: a run that is started from Prefect's page runs the pipeline of this checkout, and Ctrl-C ends all of it."""

import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from flows.serve import DEPLOYMENTS
from tasks.runtime.imports import ROOT
from tests.flows.checkout import environment, make_checkout
from tests.flows.test_stage import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_checkout(tmp_path_factory.mktemp("served") / "c", params="work: {steps: 3, seconds: 0.1}")
    (root / "flows/profiles").mkdir(parents=True)
    (root / "flows/profiles/smoke.yaml").write_text("# Less.\nwork: {steps: 2}\n")
    (root / "flows/pipeline.py").write_text((ROOT / "flows/pipeline.py").read_text())
    (root / DEPLOYMENTS).parent.mkdir()
    (root / DEPLOYMENTS).write_text((ROOT / DEPLOYMENTS).read_text())
    return root


@pytest.fixture(scope="module")
def served(root):
    """`temper serve` as a process, once it says that it is ready, and a client of the server it has started."""
    command = [sys.executable, "-m", "flows.cli", "serve"]
    process = subprocess.Popen(command, cwd=root, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True)
    address = next(line.split()[1] for line in process.stdout if line.startswith("Prefect: "))
    ready = next((line for line in process.stdout if line.startswith("ready after")), "")
    assert ready, "it ended before it was ready"
    yield process, httpx.Client(base_url=f"{address}/api", timeout=60)
    process.kill()
    process.wait()


def start_run(api: httpx.Client, deployment: str, **parameters) -> str:
    """Start a deployment as the page does; return the id of the flow run. 503 is the server's word for "busy: again"."""
    found = api.get(f"/deployments/name/temper/{deployment}").raise_for_status().json()
    asked = {"parameters": found["parameters"] | parameters}
    for _ in range(30):
        answer = api.post(f"/deployments/{found['id']}/create_flow_run", json=asked)
        if answer.status_code != 503:
            break
        time.sleep(1)
    return answer.raise_for_status().json()["id"]


def ended(api: httpx.Client, run: str) -> dict:
    """Wait for the end of a flow run and return it."""
    wait_for(lambda: api.get(f"/flow_runs/{run}").json()["end_time"], patience=240)
    return api.get(f"/flow_runs/{run}").json()


def test_both_deployments_are_there_with_the_params_of_the_command_line(served):
    _, api = served
    found = {entry["name"]: entry for entry in api.post("/deployments/filter", json={}).json()}
    assert set(found) == {"default", "smoke"}
    assert set(found["default"]["parameter_openapi_schema"]["properties"]) == {"profile", "sets", "stages"}
    assert found["smoke"]["parameters"]["profile"] == "smoke"


def test_a_run_from_the_page_takes_profile_and_sets_and_puts_params_back(served, root):
    _, api = served
    before = (root / "params.yaml").read_text()
    run = ended(api, start_run(api, "smoke", sets=["work.loss=0.5"]))
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    assert run["name"].startswith("smoke ")
    assert '"loss": 0.5' in (root / "out/scores.json").read_text()
    assert len((root / "out/curve.csv").read_text().splitlines()) == 1 + 2
    assert (root / "params.yaml").read_text() == before


def test_a_wrong_param_fails_the_run_with_the_message_of_the_command_line(served):
    _, api = served
    run = ended(api, start_run(api, "default", sets=["wrok.loss=0.5"]))
    assert run["state"]["type"] == "FAILED"
    assert "params.yaml has no section 'wrok'; did you mean 'work'?" in run["state"]["message"]


def test_ctrl_c_stops_a_run_with_a_checkpoint_and_leaves_nothing_behind(served, root):
    process, api = served
    start_run(api, "default", sets=["work.steps=300", "work.seconds=0.2"])
    wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*")), patience=240)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert "work: stopped by SIGTERM" in (root / ".temper/logs/work.log").read_text()
    assert (root / "params.yaml").read_text() == "work: {steps: 3, seconds: 0.1}\n"
