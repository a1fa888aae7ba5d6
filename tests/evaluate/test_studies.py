"""The report names every study, leads to the pages of those that were run, and tells their verdicts; it waits for none."""

import json

import pytest

from tasks.evaluate.page.studies import first_sentence, ledger_in, read_studies
from tests.evaluate.test_report import Page, page_of, start, write_run

CLAIM = {"paper": "P", "claim": "It <helps>.", "metric": "m", "direction": "up", "published": "?", "effects": [1.0, 1.2]}
LEDGER = {"yes": 1, "no": 0, "not_at_this_scale": 0, "confidence": 0.95}
LEDGER["claims"] = [{**CLAIM, "mean": 1.1, "low": 0.9, "high": 1.3, "verdict": "yes"}]


def define(root, name: str, text: str = "# What it asks: a thing. More.\nstages: {}\n"):
    (root / f"flows/studies/{name}").mkdir(parents=True)
    (root / f"flows/studies/{name}/dvc.yaml").write_text(text)


def finish(root, name: str, scores: str, value):
    (root / f"data/studies/{name}/report").mkdir(parents=True)
    (root / f"data/studies/{name}/report/index.html").write_text("<p>")
    (root / f"data/studies/{name}/{scores}").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# One.\n# Two.\nvars: []", "One."),
        ("# It goes\n# over lines: so. `temper run x`.\n", "It goes over lines: so."),
        ("# By tasks of others: `temper run x --set a=b`", "By tasks of others."),
        ("stages: {}\n# later", ""),
    ],
)
def test_what_a_study_is_about_is_the_first_sentence_of_its_definition(text, sentence):
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(("scores", "value"), [("claims.json", LEDGER), ("tradeoffs.json", {"seeds": {}, "claims": LEDGER})])
def test_claims_are_found_in_whichever_scores_hold_them(tmp_path, scores, value):
    finish(tmp_path, "one", "a.json", {"claims": [1, 2]})
    (tmp_path / "data/studies/one" / scores).write_text(json.dumps(value))
    assert ledger_in(tmp_path / "data/studies/one") == LEDGER


@pytest.mark.parametrize("text", ["", "[1]", '{"claims"', '{"claims": {"yes": 1}}', "3"])
def test_what_is_no_ledger_counts_as_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert ledger_in(tmp_path) == {}


def test_those_that_were_run_come_first(tmp_path):
    for name in ("a", "b"):
        define(tmp_path, name)
    finish(tmp_path, "b", "claims.json", LEDGER)
    found = read_studies(tmp_path / "data/report", tmp_path / "flows/studies", tmp_path / "data/studies")
    assert [(study.name, study.page) for study in found] == [("b", "../studies/b/report/index.html"), ("a", None)]
    assert (tmp_path / "data/report" / found[0].page).resolve().is_file()
    assert found[1].command == "temper run a"


def test_the_page_leads_to_what_was_run_and_says_how_to_run_the_rest(tmp_path):
    define(tmp_path, "done")
    define(tmp_path, "open")
    finish(tmp_path, "done", "tradeoffs.json", {"claims": LEDGER})
    done = start(tmp_path, write_run(tmp_path))
    assert done.returncode == 0, done.stderr
    page: Page = page_of(tmp_path)
    assert "../studies/done/report/index.html" in [attrs.get("href") for attrs in page.all("a")]
    text = page.text()
    assert "1 holds, 0 do not, 0 open" in text
    assert "It <helps>." in text
    assert "not run: temper run open" in text
