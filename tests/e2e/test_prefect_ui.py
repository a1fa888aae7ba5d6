"""Prefect's real page in a real browser: a run that `temper run` made, with every stage and its scores on it.

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

from flows.graph import load_graph
from flows.overlay import effective_params
from flows.server import start_in_background
from tasks.runtime.imports import ROOT
from tests.e2e.conftest import start
from tests.flows.checkout import make_checkout

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


@pytest.fixture(params=["stand-in", "smoke"])
def finished(request) -> tuple[str, Path]:
    """A checkout in which `temper run` has run everything."""
    if request.param == "stand-in":
        return request.param, request.getfixturevalue("stand_in")
    place, done = request.getfixturevalue("smoke_run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return request.param, place


def test_every_stage_and_a_score_are_on_the_page_of_a_run(finished, browser, monkeypatch):
    name, root = finished
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    stages = list(load_graph(root, effective_params(root, None)).stages)
    server = start_in_background(root)
    foreign = []
    try:
        server.wait()
        newest = {"sort": "START_TIME_DESC", "limit": 1}
        run = httpx.post(f"{server.api_url}/flow_runs/filter", json=newest, timeout=60).raise_for_status().json()[0]
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
        server.stop()
    assert run["state"]["type"] == "COMPLETED"
    assert foreign == [], "the page calls nobody but its own server"
