"""From starting a training stage's process to its first step: most of it is importing torch, transformers and TRL.

    PYTHONPATH=. python tests/bench/bench_start.py

A run of a single step on a tiny model, and beside it what no stage that trains with the Trainer can do without: importing it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.runtime.imports import ROOT
from tasks.runtime.records import write_records
from tests.tiny import llama, save

RUNS = 3
FIRST = re.compile(r"\b1/1 steps")
TEXTS = [f"w{number} w{number + 1} w{number + 2}" for number in range(8)]
IMPORT = "import torch, transformers; transformers.Trainer"


def prepare(folder: Path) -> dict[str, list[str]]:
    """Write a model and data for one step into `folder`; return the flags of every stage."""
    save(llama(), folder / "base")
    write_records(folder / "sets/sft.jsonl", [{"prompt": text, "completion": text} for text in TEXTS])
    for name in ("pretrain", "perplexity"):
        write_records(folder / f"sets/{name}.jsonl", [{"text": text} for text in TEXTS])
    pairs = [{"prompt": text, "chosen": f"{text} w0", "rejected": f"{text} w9"} for text in TEXTS]
    for name in ("train", "test"):
        write_records(folder / f"sets/{name}.jsonl", pairs)
    one = {"max_length": 64, "batch_size": 8, "epochs": 1}
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 64}
    (folder / "params.yaml").write_text(json.dumps({"pretrain": {**one, **shape}, "sft": {**one, "heldout": 1}, "reward": one}))
    return {
        "pretrain": ["--corpus", "sets", "--tokenizer", "base"],
        "sft": ["--base", "base", "--sets", "sets"],
        "reward": ["--base", "base", "--preferences", "sets"],
    }


def first_step(folder: Path, stage: str, flags: list[str]) -> float:
    """Start a stage and return the seconds until it tells of its first step."""
    outs = [word for flag in ("out", "scores", "curve") for word in (f"--{flag}", f"{stage}-{flag}")]
    command = [sys.executable, "-m", f"tasks.train.{stage}", *flags, *outs]
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if FIRST.search(line):
                seconds = time.monotonic() - started
                process.stderr.read()
                return seconds
    raise SystemExit(f"{stage} took no step")


def importing() -> float:
    """Return the seconds of a process that only imports the Trainer."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORT], check=True)
    return time.monotonic() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        floor = min(importing() for _ in range(RUNS))
        print(f"{'importing the Trainer':24}{floor:6.1f} s")
        for stage, flags in prepare(folder).items():
            best = min(first_step(folder, stage, flags) for _ in range(RUNS))
            print(f"{stage:24}{best:6.1f} s  {best / floor:4.2f} of that (at most 10 s is wanted)")


if __name__ == "__main__":
    main()
