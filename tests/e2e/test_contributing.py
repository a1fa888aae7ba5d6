"""CONTRIBUTING.md's ten lines do what the page says, word for word, in a copy of this project."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runtime.imports import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


@pytest.mark.slow
def test_a_stage_added_as_the_page_says_runs(checkout: Path):
    (checkout / "tasks/evaluate/words.py").write_text(block("python"))
    (checkout / "dvc.yaml").write_text((checkout / "dvc.yaml").read_text() + block("yaml", 0))
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text() + block("yaml", 1))
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "words"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((checkout / "data/scores/words.json").read_text())["words"] > 0
    again = subprocess.run([sys.executable, "-m", "dvc", "status", "words"], cwd=checkout, capture_output=True, text=True)
    assert "up to date" in again.stdout
