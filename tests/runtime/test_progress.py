"""Progress on disk: one small file a stage, whole at every moment, whoever of its processes writes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tasks.runtime.progress import FOLDER

ROOT = Path(__file__).parents[2]
SEED = 'from tasks.runtime.progress import Progress\nfor _ in range(200): Progress("toy", 1, "steps").advance()'


def test_processes_of_one_stage_write_one_file_and_never_trip_over_each_other(tmp_path):
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    seeds = [
        subprocess.Popen([sys.executable, "-c", SEED], cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [seed.communicate()[1] for seed in seeds]
    assert [seed.returncode for seed in seeds] == [0] * 4, said
    assert json.loads((tmp_path / FOLDER / "toy.json").read_text())["done"] == 1
    assert list((tmp_path / FOLDER).iterdir()) == [tmp_path / FOLDER / "toy.json"]
