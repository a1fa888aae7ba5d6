"""Reports beside Prefect's page: those and nothing else, to whom the API answers, and nothing in them runs."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from flows.watching.pages import Reports


@pytest.fixture
def root(tmp_path):
    for place in ("report/index.html", "studies/tax/report/index.html", "models/sft/config.json", "studies/tax/scores.json"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / place).write_text(f"<p>{place}</p>")
    (tmp_path / "params.yaml").write_text("secret: 1")
    return tmp_path


def client(root, secret=None) -> TestClient:
    return TestClient(Starlette(routes=[Mount("/data", app=Reports(root, secret))]))


@pytest.mark.parametrize("place", ["report/index.html", "studies/tax/report/index.html"])
def test_a_report_is_served_and_cannot_run_anything(root, place):
    answer = client(root).get(f"/data/{place}")
    assert (answer.status_code, answer.text) == (200, f"<p>{place}</p>")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "place",
    [
        "models/sft/config.json",
        "studies/tax/scores.json",
        "report/../models/sft/config.json",
        "report/%2e%2e/models/sft/config.json",
        "report/%2e%2e/%2e%2e/params.yaml",
        "report/missing.html",
        "report/",
        "",
    ],
)
def test_nothing_else_is(root, place):
    assert client(root).get(f"/data/{place}").status_code == 404


def test_a_link_out_of_the_folder_is_not_followed(root):
    (root / "data/report/params.yaml").symlink_to(root / "params.yaml")
    assert client(root).get("/data/report/params.yaml").status_code == 404


def test_who_may_not_ask_the_api_may_not_read_a_report(root):
    guarded = client(root, "reader:word")
    assert guarded.get("/data/report/index.html").status_code == 401
    assert guarded.get("/data/report/index.html", auth=("reader", "other")).status_code == 401
    assert guarded.get("/data/report/index.html", auth=("reader", "word")).status_code == 200
