"""What checkpoints cost, and how soon a killed run takes its first step again: on a model of the default pipeline's size.

    PYTHONPATH=. python tests/bench/bench_checkpoint.py

The stage `pretrain` runs so many steps without a checkpoint, then with one at every step; the difference is what a checkpoint
costs, and over the default interval it is the share of training time. Then it is killed and started again, as a process of its
own and without the warm process of a run. CPU seconds stand beside the wall's, for a machine that is not quiet. Last, what it
costs to hash a model before a stage reads it.
"""

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.sound import Memo
from tasks.runtime.chaos import FAIL_AT
from tasks.runtime.imports import ROOT
from tasks.runtime.launch import Place
from tasks.runtime.params import read_yaml
from tasks.runtime.records import write_records
from tests.tiny import WORDS, word_tokenizer

STEPS = 30
STEP = re.compile(r"\d+/\d+ steps")
NEVER, ALWAYS = {"TEMPER_CHECKPOINT_SECONDS": "1e9"}, {"TEMPER_CHECKPOINT_SECONDS": "0"}
WANTED_SHARE, WANTED_RESUME = 0.05, 15.0


def prepare(folder: Path) -> list[str]:
    """Write texts for so many steps into `folder`; return the command of the stage at the size of the default pipeline."""
    draw = random.Random(0)
    params = {**read_yaml(ROOT / "params.yaml")["pretrain"], "epochs": 1, "threads": 1}
    rows = [" ".join(draw.choices(WORDS, k=params["max_length"] - 1)) for _ in range(STEPS * params["batch_size"])]
    write_records(folder / "sets/pretrain.jsonl", [{"text": row} for row in rows])
    write_records(folder / "sets/perplexity.jsonl", [{"text": row} for row in rows[:8]])
    word_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "params.yaml").write_text(json.dumps({"pretrain": params}))
    flags = {"corpus": "sets", "tokenizer": "tokenizer", "out": "out", "scores": "scores.json", "curve": "curve.csv"}
    return [sys.executable, "-m", "tasks.train.pretrain", *(word for name in flags for word in (f"--{name}", flags[name]))]


@dataclass(frozen=True)
class Spent:
    """Seconds of a run by the wall and of the processor: to its first step, and in all."""

    first_s: float
    first_cpu: float
    wall_s: float
    cpu: float


def run(folder: Path, command: list[str], environment: dict[str, str]) -> Spent:
    """Run the stage to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, first, first_cpu = time.monotonic(), 0.0, 0.0
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if not first and STEP.search(line):
                first = time.monotonic() - started
                first_cpu = sum(psutil.Process(process.pid).cpu_times()[:2])
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(first, first_cpu, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = prepare(folder)
        plain, kept = run(folder, command, NEVER), run(folder, command, ALWAYS)
        interval = Place.checkpoint_seconds
        cost_s, cost_cpu = (kept.wall_s - plain.wall_s) / (STEPS - 1), (kept.cpu - plain.cpu) / (STEPS - 1)
        print(f"a checkpoint                {cost_s:6.2f} s ({cost_cpu:.2f} s of the processor)")
        shares = f"{cost_s / interval:6.2%} of training ({cost_cpu / interval:.2%} of the processor"
        print(f"share at every {interval:.0f} s        {shares}; at most {WANTED_SHARE:.0%} is wanted)")
        run(folder, command, {**ALWAYS, FAIL_AT: f"step:{STEPS // 2}"})
        again = run(folder, command, ALWAYS)
        first = f"{again.first_s:6.1f} s ({again.first_cpu:.1f} s of the processor"  # a step is told of up to 2 s late
        print(f"resume to the first step    {first}; at most {WANTED_RESUME:.0f} s is wanted)")
        model = folder / "big.bin"
        model.write_bytes(os.urandom(1 << 28))
        started = time.process_time()
        Memo(folder).md5(model)
        spent = time.process_time() - started
        started = time.process_time()
        Memo(folder).md5(model)
        later = time.process_time() - started
        print(f"hashing what a stage reads  {1 / 4 / spent:6.2f} GiB/s once; afterwards {later * 1e3:.1f} ms a file")


if __name__ == "__main__":
    main()
