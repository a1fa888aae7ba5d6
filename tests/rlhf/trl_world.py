"""A tiny policy, reward, prompts and pairs for the stages that train through TRL, run here or as a process."""

import csv
import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tasks.runtime.imports import ROOT
from tasks.runtime.lease import Lease
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, judge, llama, save

INPUTS = {"dpo": ("policy", "preferences"), "grpo": ("policy", "reward", "sets"), "rloo": ("policy", "reward", "sets")}
ALL = {"max_length": 32, "threads": 1, "learning_rate": 1e-2, "batch_size": 4, "snapshots": 3, "epochs": 1.0}
ONLINE = {"samples": 4, "max_new_tokens": 6, "generate_batch": 16}


def write_world(place: Path) -> Path:
    """Everything the stages read, below `place`."""
    draw = random.Random(0)
    save(llama(), place / "policy")
    save(judge(1), place / "reward")
    write_records(place / "sets/prompts.jsonl", [{"prompt": f"{a} {b}"} for a in WORDS[:6] for b in WORDS[:4]])
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(24)]
    pairs = [{"prompt": f"w1 {text[:3]}", "chosen": f"w39 {text}", "rejected": f"w38 {text}"} for text in texts]
    write_records(place / "preferences/train.jsonl", pairs)
    return place


def params_of(stage: str, **changed) -> dict:
    return {**ALL, **(ONLINE if stage != "dpo" else {}), **changed}


def run(stage: str, world: Path, place: Path, **changed) -> Path:
    """Run a stage in this process, its outs below `place`."""
    module = importlib.import_module(f"tasks.rlhf.{stage}")
    outs = {"out": place / "model", "scores": place / "scores.json", "curve": place / "curve.csv"}
    ins = {name: world / name for name in INPUTS[stage]}
    module.main(module.Params(**params_of(stage, **changed)), Run(stage, place.name, Lease(place, stage)), **ins, **outs)
    return place


def begin(stage: str, world: Path, environment: dict[str, str] | None = None, **changed) -> subprocess.Popen[str]:
    """Start a stage as a process of its own in `world`, its outs below `world`/out."""
    (world / "out").mkdir(exist_ok=True)
    (world / "out/params.yaml").write_text(json.dumps({stage: params_of(stage, **changed)}))
    flags = {name: name for name in INPUTS[stage]} | {"params": "out/params.yaml", "out": "out/model"}
    flags |= {"scores": "out/scores.json", "curve": "out/curve.csv"}
    line = [sys.executable, "-m", f"tasks.rlhf.{stage}", *(part for name in flags for part in (f"--{name}", flags[name]))]
    there = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(line, cwd=world, env=there, stderr=subprocess.PIPE, text=True)


def published(place: Path) -> dict[str, bytes]:
    """Every byte that a stage published below `place`."""
    files = [place / "scores.json", place / "curve.csv", *sorted(path for path in (place / "model").rglob("*") if path.is_file())]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def curve_of(place: Path) -> list[dict[str, float]]:
    with (place / "curve.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
