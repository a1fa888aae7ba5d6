"""The page and its summary: DVC restores the one and not the other, and the command brings them in step again."""

import json
import sys
from contextlib import chdir

import pytest
from dvc.repo import Repo

from flows import cli
from flows.report import PAGE, SHOWN, SUMMARY, in_step

WRITE = """
import json, os, sys
value = int(open("params.yaml").read().split("value: ")[1].split("}")[0])
for folder in ("data/report", ".temper/report"):
    os.makedirs(folder, exist_ok=True)
if value > 8:
    sys.exit("report: too much")
summary = {"headline": {"value": value}, "scores": {"sft": {"loss": 0.5}}}
json.dump(summary, open("data/report/summary.json", "w"))
open("data/report/index.html", "w").write(f"<p>{value}</p>")
json.dump({"summary": summary}, open(".temper/report/previous.json", "w"))
"""
PIPELINE = """
stages:
  report:
    cmd: python write.py
    params: [report]
    deps: [write.py]
    outs: [data/report/summary.json]
"""


def reproduce(root, value):
    (root / "params.yaml").write_text(f"report: {{value: {value}}}\n")
    with chdir(root), Repo() as repo:
        repo.reproduce()


@pytest.fixture
def root(build, tmp_path, monkeypatch):
    root = build(tmp_path / "checkout", PIPELINE, "report: {value: 1}\n")
    (root / "write.py").write_text(WRITE)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def report(monkeypatch, capsys):
    def _report():
        monkeypatch.setattr(sys, "argv", ["temper", "report"])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return _report


def test_without_a_report_it_says_how_to_make_one(root, report):
    code, _, error = report()
    assert code == 2
    assert "make one with `temper run`" in error


def test_it_names_the_page_and_only_the_headline(root, report):
    reproduce(root, 1)
    report()
    code, said, _ = report()
    assert code == 0
    assert [line.split() for line in said.splitlines()] == [["score", "value"], ["value", "1"], ["report:", str(root / PAGE)]]


def test_a_summary_that_dvc_restored_gets_its_page_back(root, report):
    reproduce(root, 1)
    reproduce(root, 2)
    reproduce(root, 1)
    assert json.loads((root / SUMMARY).read_text())["headline"] == {"value": 1}
    assert (root / PAGE).read_text() == "<p>2</p>"
    assert not in_step(root)
    report()
    assert (root / PAGE).read_text() == "<p>1</p>"
    assert in_step(root)
    with chdir(root), Repo() as repo:
        assert repo.status() == {}


def test_a_page_of_a_pipeline_that_has_changed_is_left_and_said_to_be_old(root, report):
    reproduce(root, 1)
    (root / SHOWN).unlink()
    (root / "params.yaml").write_text("report: {value: 3}\n")
    code, _, error = report()
    assert code == 0
    assert "report changed since: `temper run`" in error
    assert (root / PAGE).read_text() == "<p>1</p>"


def test_a_page_that_cannot_be_written_again_is_said_with_the_last_line(root, report):
    (root / "write.py").write_text(WRITE.replace("value > 8", "os.path.exists('stop')"))
    reproduce(root, 1)
    (root / "stop").touch()
    (root / PAGE).unlink()
    code, _, error = report()
    assert code == 2
    assert "report: too much; `temper run --force report`" in error


def test_a_page_whose_writer_was_killed_is_begun_again(root, report):
    dies = "os.path.exists('stop') and not (os.remove('stop') or os.kill(os.getpid(), 9))"
    (root / "write.py").write_text(WRITE.replace("value > 8", dies))
    reproduce(root, 1)
    (root / "stop").touch()
    (root / PAGE).unlink()
    code, _, _ = report()
    assert code == 0
    assert (root / PAGE).read_text() == "<p>1</p>"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"summary"'])
def test_a_damaged_record_counts_as_out_of_step(root, text):
    reproduce(root, 1)
    assert in_step(root)
    (root / SHOWN).write_text(text)
    assert not in_step(root)
