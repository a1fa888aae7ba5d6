"""`temper serve`: what infra/ says is on the server, runs start from it, what goes wrong is told, and Ctrl-C ends all of it."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings
from prefect.states import Scheduled

from flows.deployments import PLACE, names
from flows.planning import history
from flows.serve import _bring_up
from flows.server import Server
from flows.watching import automations, monitoring
from tasks.runtime.imports import ROOT
from tasks.runtime.params import UserError, read_yaml
from tests.flows.checkout import command, environment, make_checkout
from tests.flows.receiver import Receiver
from tests.flows.test_stage import wait_for

SILENT = 12
"""Less than the 30 s between two heartbeats: a run that goes on would be taken for dead too, so for one test alone."""
WATCHED = """\
notify: [webhook/temper, custom-webhook/chat]
silent_seconds: 90
slow: {factor: 1.5, at_least_seconds: 1, runs: 1}
floors: {smoke: {work: {loss: 0.9}}}
"""
LONG = {"steps": 300, "seconds": 0.2}


class TestTheFile:
    def write(self, root, text: str):
        (root / PLACE).parent.mkdir(parents=True)
        (root / PLACE).write_text(text)
        return root

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("deployments: []", "has no deployments"),
            ("deployments: [{work_pool: {name: temper}}]", "deployment 1: needs a name of its own"),
            ("deployments: [{name: a, work_pool: {name: other}}]", "deployment a: its work_pool must be {name: temper}"),
        ],
    )
    def test_a_fault_is_told_before_anything_starts(self, tmp_path, text, says):
        with pytest.raises(UserError, match=says):
            names(self.write(tmp_path, text))


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_checkout(tmp_path_factory.mktemp("served") / "c", params="work: {steps: 3, seconds: 0.1}")
    (root / "flows/profiles").mkdir(parents=True)
    (root / "flows/profiles/smoke.yaml").write_text("# Less.\nwork: {steps: 2}\n")
    (root / "flows/deployed.py").write_text((ROOT / "flows/deployed.py").read_text())
    (root / "infra").mkdir()
    (root / PLACE).write_text((ROOT / PLACE).read_text())
    (root / monitoring.PLACE).write_text(WATCHED)
    history.record(root, "work", 1.0, 0, LONG)
    return root


@pytest.fixture(scope="module")
def served(root, receiver):
    """`temper serve` as a process, once it says that it is ready, and a client of the server it has started."""
    command = [sys.executable, "-m", "flows.cli", "serve"]
    around = environment(PYTHONPATH=str(ROOT), TEMPER_ALERTS_SECRET=f"{receiver.url}/alerts")
    process = subprocess.Popen(command, cwd=root, env=around, stdout=subprocess.PIPE, text=True)
    address = next(line.split()[1] for line in process.stdout if line.startswith("Prefect: "))
    said = []
    ready = next((line for line in process.stdout if said.append(line) or line.startswith("ready after")), "")
    assert ready, "it ended before it was ready"
    process.said = said
    yield process, httpx.Client(base_url=f"{address}/api", timeout=60)
    process.kill()
    process.wait()


@contextmanager
def client(api: httpx.Client):
    with temporary_settings({"api.url": str(api.base_url).rstrip("/")}), get_client(sync_client=True) as found:
        yield found


def bring_up(api: httpx.Client, root) -> None:
    """Bring the running server in line with the files again, as the next `temper serve` does."""
    _bring_up(root, Server(str(api.base_url).rstrip("/")), monitoring.read(root))


def deployed(api: httpx.Client) -> dict[str, dict]:
    return {entry["name"]: entry for entry in api.post("/deployments/filter", json={}).json()}


def automated(api: httpx.Client) -> dict[str, str]:
    """Return the ids of the automations by name, in the order of their names; each name once."""
    found = sorted((entry["name"], entry["id"]) for entry in api.post("/automations/filter", json={}).json())
    assert len(dict(found)) == len(found)
    return dict(found)


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


@pytest.mark.slow
class TestOnAServer:
    def test_every_deployment_is_there_with_its_parameters_and_schedules(self, served):
        _, api = served
        found, wanted = deployed(api), read_yaml(ROOT / PLACE)["deployments"]
        assert set(found) == {entry["name"] for entry in wanted}
        assert set(found["default"]["parameter_openapi_schema"]["properties"]) == {
            "profile",
            "sets",
            "stages",
            "force",
            "workers",
        }
        for entry in wanted:
            assert found[entry["name"]]["parameters"] == entry["parameters"]
            there = [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in found[entry["name"]]["schedules"]]
            assert there == [(each["cron"], each["timezone"]) for each in entry.get("schedules", [])]
        assert found["nightly"]["schedules"]
        assert found["weekly-study"]["schedules"]

    def test_a_scheduled_run_is_waiting_for_its_time(self, served):
        _, api = served
        nightly = {"deployments": {"name": {"any_": ["nightly"]}}}
        wait_for(lambda: api.post("/flow_runs/filter", json=nightly).json(), patience=120)
        run = api.post("/flow_runs/filter", json=nightly).json()[0]
        assert (run["state"]["type"], run["auto_scheduled"]) == ("SCHEDULED", True)
        assert datetime.fromisoformat(run["expected_start_time"]).hour == 2

    def test_its_automations_are_there_and_a_block_that_is_missing_is_told(self, served):
        process, api = served
        assert list(automated(api)) == [
            "temper: a run failed",
            "temper: a run fell silent",
            "temper: a score is out of bounds",
            "temper: a stage is slow",
            "temper: evaluate a new base model",
        ]
        assert any("nobody is told through custom-webhook/chat" in line for line in process.said)
        assert not any("webhook/temper" in line for line in process.said), "TEMPER_ALERTS_SECRET has made it"

    def test_the_address_of_a_webhook_is_a_secret_of_the_server(self, served, receiver):
        _, api = served
        block = api.get("/block_types/slug/webhook/block_documents/name/temper").json()
        assert receiver.url not in str(block)

    def test_a_second_one_in_the_same_checkout_is_refused(self, served, root):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "serve"],
            cwd=root,
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "of this checkout keeps a server already" in done.stderr + done.stdout

    def test_again_it_changes_nothing_and_a_block_made_since_is_used(self, served, root, receiver):
        _, api = served
        before, silent = deployed(api), automated(api)["temper: a run fell silent"]
        with client(api):
            from prefect.blocks.notifications import CustomWebhookNotificationBlock

            data = {"text": "{{subject}} {{body}}"}
            CustomWebhookNotificationBlock(name="chat", url=f"{receiver.url}/chat", json_data=data).save("chat")
        bring_up(api, root)
        after = deployed(api)
        assert {name: entry["id"] for name, entry in after.items()} == {name: entry["id"] for name, entry in before.items()}
        assert len(after["nightly"]["schedules"]) == 1
        assert len(automated(api)) == 5
        assert automated(api)["temper: a run fell silent"] == silent, "what is as it should be is left alone"

    def test_what_is_taken_out_of_the_files_is_taken_down_and_what_is_changed_is_changed(self, served, root):
        _, api = served
        text = (root / PLACE).read_text()
        text = text[: text.index("- <<: *shared\n  name: new-base")].replace('"0 2 * * *"', '"30 1 * * *"')
        (root / PLACE).write_text(text)
        with client(api) as found:
            stale = automations.automations(monitoring.Monitoring(), {})[0]
            found.create_automation(stale.model_copy(update={"name": "temper: of an older file"}))
        bring_up(api, root)
        assert set(deployed(api)) == {"default", "smoke", "nightly", "weekly-study"}
        assert [each["schedule"]["cron"] for each in deployed(api)["nightly"]["schedules"]] == ["30 1 * * *"]
        assert not {"temper: evaluate a new base model", "temper: of an older file"} & set(automated(api))

    def test_what_is_back_is_put_up_and_a_run_missed_while_nobody_served_is_not_made_up_for(self, served, root):
        _, api = served
        weekly = {"deployments": {"name": {"any_": ["weekly-study"]}}}
        wait_for(lambda: api.post("/flow_runs/filter", json=weekly).json(), patience=120)
        run = api.post("/flow_runs/filter", json=weekly).json()[0]["id"]
        with client(api) as found:
            api.patch("/work_pools/temper", json={"is_paused": True}).raise_for_status()
            found.set_flow_run_state(run, Scheduled(scheduled_time=datetime.now(UTC) - timedelta(days=2)), force=True)
        (root / PLACE).write_text((ROOT / PLACE).read_text())
        bring_up(api, root)
        api.patch("/work_pools/temper", json={"is_paused": False}).raise_for_status()
        state = api.get(f"/flow_runs/{run}").json()["state"]
        assert (state["type"], state["message"]) == ("CANCELLED", "missed: nobody served at its time")
        assert "new-base" in deployed(api)
        assert len(automated(api)) == 5

    def test_a_run_from_the_page_takes_profile_and_sets_and_puts_params_back(self, served, root):
        _, api = served
        before = (root / "params.yaml").read_text()
        run = ended(api, start_run(api, "smoke", sets=["work.loss=0.5"]))
        commit = command(root, "git", "rev-parse", "HEAD")[:8]
        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert run["name"] == f"smoke {commit}"
        assert set(run["tags"]) >= {"smoke", commit}
        assert '"loss": 0.5' in (root / "out/scores.json").read_text()
        assert len((root / "out/curve.csv").read_text().splitlines()) == 1 + 2
        assert (root / "params.yaml").read_text() == before

    def test_a_score_below_its_floor_is_told(self, served, receiver):
        told = receiver.told("work: loss is 0.5, below its floor of 0.9")
        assert told["automation"] == "temper: a score is out of bounds"
        assert told["url"].endswith(f"/runs/flow-run/{told['url'][-36:]}")
        assert "work: loss is 0.5" in receiver.told("temper: a score is out of bounds", "/chat")["text"]

    def test_a_wrong_param_fails_the_run_with_the_message_of_the_command_line_and_is_told(self, served, receiver):
        _, api = served
        run = ended(api, start_run(api, "default", sets=["wrok.loss=0.5"]))
        assert run["state"]["type"] == "FAILED"
        assert "params.yaml has no section 'wrok'; did you mean 'work'?" in run["state"]["message"]
        told = receiver.told("params.yaml has no section 'wrok'")
        assert told["automation"] == "temper: a run failed"
        assert told["text"].startswith(run["name"])
        assert told["url"].endswith(run["id"])

    def test_with_workers_pool_the_stages_go_to_the_pools_which_needs_a_remote(self, served):
        _, api = served
        run = ended(api, start_run(api, "default", workers="pool"))
        assert "data reaches the workers through a DVC remote, and none is set" in run["state"]["message"]

    def test_an_event_starts_the_evaluation_of_a_new_base_model(self, served):
        _, api = served
        said = '{"path": "models/new", "prompts": "prompts.jsonl"}'
        emit = [sys.executable, "-m", "prefect", "event", "emit", "temper.base.new", "--resource-id", "temper.base"]
        around = environment(PREFECT_API_URL=str(api.base_url).rstrip("/"))
        subprocess.run([*emit, "--payload", said], env=around, check=True, capture_output=True)
        started = {"deployments": {"name": {"any_": ["new-base"]}}}
        wait_for(lambda: api.post("/flow_runs/filter", json=started).json(), patience=60)
        asked = api.post("/flow_runs/filter", json=started).json()[0]["parameters"]
        assert asked["sets"] == ["base.path=models/new", "prompts.path=prompts.jsonl"]
        assert asked["profile"] == "local-model"

    def test_a_killed_run_falls_silent_is_marked_as_crashed_and_told(self, served, root, receiver, tmp_path):
        _, api = served
        watched = monitoring.read(root)
        with client(api) as found:
            automations.keep(found, watched.model_copy(update={"silent_seconds": SILENT}))
        elsewhere = make_checkout(tmp_path / "c", params="work: {steps: 300, seconds: 0.2}")
        around = environment(PYTHONPATH=str(ROOT), PREFECT_API_URL=str(api.base_url).rstrip("/"))
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run"], cwd=elsewhere, env=around, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: list(elsewhere.glob(".temper/checkpoints/work/*/step-*")), patience=240)
        process.kill()
        process.wait()
        by_hand = {"flow_runs": {"deployment_id": {"is_null_": True}}, "sort": "START_TIME_DESC"}
        run = api.post("/flow_runs/filter", json=by_hand).json()[0]["id"]
        told = receiver.told(f"no heartbeat for {SILENT} s")
        assert told["url"].endswith(run)
        assert api.get(f"/flow_runs/{run}").json()["state"]["type"] == "CRASHED"
        with client(api) as found:
            automations.keep(found, watched)

    def test_a_stage_much_slower_than_its_median_is_told_while_it_runs(self, served, root, receiver):
        _, api = served
        run = start_run(api, "default", sets=[f"work.{key}={value}" for key, value in LONG.items()])
        told = receiver.told("stage work has been running for 2 s and usually takes 1 s", patience=240)
        assert told["url"].endswith(run)
        assert api.get(f"/flow_runs/{run}").json()["state"]["type"] == "RUNNING"

    def test_ctrl_c_stops_a_run_with_a_checkpoint_and_leaves_nothing_behind(self, served, root):
        process, _ = served
        wait_for(lambda: list(root.glob(".temper/checkpoints/work/*/step-*")), patience=240)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        assert psutil.wait_procs(below, timeout=10)[1] == []
        assert "work: stopped by SIGTERM" in (root / ".temper/logs/work.log").read_text()
        assert (root / "params.yaml").read_text() == "work: {steps: 3, seconds: 0.1}\n"
