"""Prefect's real page in a real browser: a run that `temper run` made, with every stage and its scores on it; what it leads to.

Once on a stand-in with the names and edges of dvc.yaml whose stages take a moment, once on the smallest real pipeline. The
screenshots go to tests/e2e/screenshots.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from flows.deployments import PLACE
from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.report import PAGE
from flows.serve import _bring_up, _worker
from flows.server import Server, start_in_background
from flows.watching.monitoring import Monitoring
from tasks.runtime.imports import ROOT
from tests.e2e.conftest import start
from tests.flows.checkout import command, make_checkout

pytestmark = [pytest.mark.slow, pytest.mark.browser]

SCREENSHOTS = Path(__file__).parent / "screenshots"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 60_000
"""Milliseconds that the page may take for anything; it shares the machine with other tests."""


def open_run(page: Page, ui_url: str, flow_run_id: str, stage_names: Sequence[str], save_as: Path) -> None:
    """Open a flow run on Prefect's page and find every stage in it; screenshots of the graph and the list at `save_as`-*.png."""
    page.goto(f"{ui_url}/runs/flow-run/{flow_run_id}")
    expect(page.get_by_text(f"{len(stage_names)} Task runs").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("canvas").first).to_be_visible(timeout=PATIENCE)
    shoot(page, save_as, "run")
    page.get_by_text("Task Runs", exact=True).first.click()
    expect(page.get_by_role("link", name=stage_names[-1], exact=True).first).to_be_visible(timeout=PATIENCE)
    shoot(page, save_as, "tasks")
    for name in stage_names:
        page.get_by_placeholder("Search by run name").fill(name)
        expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible(timeout=PATIENCE)


def open_scores(page: Page, save_as: Path) -> None:
    """From a flow run's page open its artifacts and the scores of one stage; screenshots of both at `save_as`-*.png."""
    page.get_by_text("Artifacts", exact=True).first.click()
    scores = page.get_by_text(re.compile(r"^[a-z-]+-scores$")).first
    expect(scores).to_be_visible(timeout=PATIENCE)
    shoot(page, save_as, "artifacts")
    scores.click()
    expect(page.get_by_role("columnheader", name="change")).to_be_visible(timeout=PATIENCE)
    shoot(page, save_as, "scores")


def open_plot(page: Page, save_as: Path) -> None:
    """Back from the scores to the artifacts, open a plot and see that its picture is drawn."""
    page.go_back()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(re.compile(r"^[a-z-]+-plot[a-z-]*$")).first.click()
    picture = page.locator("img[src^='data:image/png']")
    expect(picture).to_be_visible(timeout=PATIENCE)
    assert picture.evaluate("image => image.naturalWidth") > 300
    shoot(page, save_as, "plot")


def shoot(page: Page, save_as: Path, what: str) -> None:
    """Save a screenshot once the page has come to rest; it fades in, and the graph's canvas tells nobody when it is drawn."""
    page.wait_for_timeout(3000)
    page.screenshot(path=f"{save_as}-{what}.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    """A checkout with the stages and edges of dvc.yaml, each a moment's work, after a run of it."""
    graph = load_graph(ROOT, effective_params(ROOT, None))
    root = make_checkout(tmp_path_factory.mktemp("ui") / "c", "".join(map(_stage, graph.stages, graph.needs.values())), PARAMS)
    done = start(root, "flows.cli", "run", timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


PARAMS = "small: {score: 0.5}"


def _stage(name: str, needs: Sequence[str]) -> str:
    """Return a stage of dvc.yaml that writes a score and a curve, and reads what those it needs have written."""
    score, curve = f"out/{name}.json", f"out/{name}.csv"
    return f"""\
  {name}:
    cmd:
    - mkdir -p out; sleep 0.5; echo '{{"score":${{small.score}},"steps":3}}' > {score}
    - printf 'step,loss\\n1,3\\n2,1.5\\n3,1\\n' > {curve}
    params: [small]
    deps: [{", ".join(f"out/{other}.json" for other in needs)}]
    metrics: [{{{score}: {{cache: true}}}}]
    plots: [{{{curve}: {{x: step, y: loss}}}}]
"""


@pytest.fixture(scope="module")
def served(stand_in) -> Iterator[Server]:
    """The server of the stand-in with what `temper serve` deploys, after one stage has run a second time with other params."""
    for place in ("flows/deployed.py", str(PLACE), "flows/profiles/smoke.yaml"):
        (stand_in / place).parent.mkdir(parents=True, exist_ok=True)
        (stand_in / place).write_text((ROOT / place).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("TEMPER_ALERTS_SECRET", "http://127.0.0.1:9/nobody")
        server = start_in_background(stand_in, for_workers=True)
        try:
            server.wait()
            _bring_up(stand_in, server, Monitoring(notify=("webhook/temper",)))
            (stand_in / PAGE).parent.mkdir(parents=True)
            (stand_in / PAGE).write_text("<h1>The alignment tax of this run</h1>")
            done = start(stand_in, "flows.cli", "run", "corpus", "--set", "small.score=0.625", timeout=600)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            with _worker(stand_in, server):
                yield server
        finally:
            server.stop()


@pytest.fixture
def page(browser, served) -> Iterator[Page]:
    """A fresh page of the browser."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, timezone_id="UTC")
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def runs(server: Server, order: str = "START_TIME_DESC") -> list[dict]:
    """Return the flow runs that have begun."""
    asked = {"sort": order, "flow_runs": {"start_time": {"is_null_": False}}}
    return httpx.post(f"{server.api_url}/flow_runs/filter", json=asked, timeout=60).raise_for_status().json()


class TestTheStory:
    def test_the_runs_page_names_profile_commit_and_tags(self, served, page, stand_in):
        commit = command(stand_in, "git", "rev-parse", "HEAD")[:8]
        page.goto(f"{served.ui_url}/runs")
        expect(page.get_by_role("link", name=f"default {commit}", exact=True)).to_have_count(2, timeout=PATIENCE)
        for tag in ("default", commit):
            expect(page.get_by_text(tag, exact=True).first).to_be_visible()
        shoot(page, SCREENSHOTS / "serve", "runs")

    def test_an_artifact_has_a_history_that_leads_to_the_run_and_the_change(self, served, page):
        page.goto(f"{served.ui_url}/artifacts/key/corpus-scores")
        page.get_by_text("Created corpus-scores").wait_for(timeout=PATIENCE)
        entries = page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$"))
        expect(entries).to_have_count(2)
        shoot(page, SCREENSHOTS / "serve", "history")
        entries.first.click()
        changed = page.locator("tr").filter(has_text="0.625").filter(has_text="+0.125")
        expect(changed).to_be_visible(timeout=PATIENCE)
        shoot(page, SCREENSHOTS / "serve", "change")

    def test_a_run_leads_to_the_report_which_opens(self, served, page):
        page.goto(f"{served.ui_url}/runs/flow-run/{runs(served)[0]['id']}")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_text("links", exact=True).click()
        link = page.get_by_role("link", name="Open the report")
        link.wait_for(timeout=PATIENCE)
        shoot(page, SCREENSHOTS / "serve", "links")
        page.goto(link.get_attribute("href"))
        expect(page.get_by_role("heading", name="The alignment tax of this run")).to_be_visible()

    def test_a_schedule_says_when_and_what_comes_next(self, served, page):
        nightly = httpx.get(f"{served.api_url}/deployments/name/temper/nightly", timeout=60).raise_for_status().json()
        page.goto(f"{served.ui_url}/deployments/deployment/{nightly['id']}")
        expect(page.get_by_text("At 02:00 AM every day").first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Next Run").first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text(re.compile("Scheduled for .* 02:00:00 AM")).first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Not Ready")).to_have_count(0)
        shoot(page, SCREENSHOTS / "serve", "schedule")

    def test_the_automations_say_what_is_watched_for(self, served, page):
        page.goto(f"{served.ui_url}/automations")
        for name in ("a run failed", "a run fell silent", "a stage is slow", "a score is out of bounds"):
            expect(page.get_by_text(f"temper: {name}").first).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Call webhook").first).to_be_visible(timeout=PATIENCE)
        shoot(page, SCREENSHOTS / "serve", "automations")


@pytest.fixture(params=["stand-in", "smoke"])
def finished(request) -> tuple[str, Path]:
    """A checkout in which `temper run` has run everything."""
    if request.param == "stand-in":
        return request.param, request.getfixturevalue("stand_in")
    place, done = request.getfixturevalue("smoke_run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return request.param, place


def test_every_stage_and_a_score_are_on_the_page_of_a_run(finished, browser, monkeypatch, request):
    name, root = finished
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    stages = list(load_graph(root, effective_params(root, None)).stages)
    server = request.getfixturevalue("served") if name == "stand-in" else start_in_background(root)
    foreign = []
    try:
        server.wait()
        run = runs(server, "START_TIME_ASC")[0]
        page = browser.new_page(viewport={"width": 1400, "height": 1700})
        page.set_default_timeout(PATIENCE)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((server.ui_url, "data:", "blob:")) else foreign.append(asked.url),
        )
        open_run(page, server.ui_url, run["id"], stages, SCREENSHOTS / name)
        open_scores(page, SCREENSHOTS / name)
        open_plot(page, SCREENSHOTS / name)
        page.close()
    finally:
        if name != "stand-in":
            server.stop()
    assert run["state"]["type"] == "COMPLETED"
    assert foreign == [], "the page calls nobody but its own server"
