"""The stages of this room on tiny models and data, as processes of their own, and what they publish."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tasks.runtime.imports import ROOT
from tasks.runtime.records import write_records
from tests.tiny import WORDS, llama, save, word_tokenizer

INPUTS = {
    "pretrain": {"corpus": "sets", "tokenizer": "tokenizer"},
    "sft": {"base": "base", "sets": "sets"},
    "reward": {"base": "base", "preferences": "preferences"},
    "prover": {"base": "prover-base", "blocks": "blocks"},
    "lean-base": {"corpus": "files", "tokenizer": "tokenizer"},
}
SMALL = {
    "pretrain": {"hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 64, "positions": 64, "epochs": 2},
    "sft": {"heldout": 4, "epochs": 2},
    "reward": {"epochs": 2},
    "prover": {"epochs": 2.0, "max_length": 260},
    "lean-base": {"hidden_size": 32, "layers": 2, "intermediate_size": 64, "positions": 64, "epochs": 2, "max_length": 48},
}
ALL = {"max_length": 32, "batch_size": 4, "threads": 1, "learning_rate": 0.01}


def write_world(place: Path) -> Path:
    """A tiny base model, a tokenizer, texts, records and preferences, below `place`."""
    draw = random.Random(0)
    save(llama(), place / "base")
    word_tokenizer().save_pretrained(place / "tokenizer")
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 20))) for _ in range(120)]
    write_records(place / "sets/pretrain.jsonl", [{"text": text} for text in texts[:100]])
    write_records(place / "sets/perplexity.jsonl", [{"text": text} for text in texts[100:]])
    files = [{"theorems": [{"question": "w1 w2", "proof": text}, {"question": "w3", "proof": "w4 w5"}]} for text in texts]
    write_records(place / "files/pretrain.jsonl", files[:100])
    write_records(place / "files/perplexity.jsonl", files[100:])
    write_records(
        place / "sets/sft.jsonl", [{"prompt": a, "completion": b} for a, b in zip(texts[:60], texts[40:], strict=False)]
    )
    for name, chosen in (("train", texts[:48]), ("test", texts[48:64])):
        pairs = [{"prompt": "w1 w2", "chosen": f"w39 {text}", "rejected": f"w38 {text}"} for text in chosen]
        write_records(place / f"preferences/{name}.jsonl", pairs)
    return place


def command(stage: str, world: Path, out: str, **changed) -> list[str]:
    """The command of a stage whose outs go below `out`, its params written there."""
    (world / out).mkdir(exist_ok=True)
    (world / out / "params.yaml").write_text(json.dumps({stage: {**ALL, **SMALL[stage], **changed}}))
    flags = INPUTS[stage] | {"params": f"{out}/params.yaml", "out": f"{out}/model", "scores": f"{out}/scores.json"}
    flags |= {"curve": f"{out}/curve.csv"}
    return [sys.executable, "-m", f"tasks.train.{stage}", *(part for name in flags for part in (f"--{name}", flags[name]))]


def begin(stage: str, world: Path, out: str, environment: dict[str, str] | None = None, **changed) -> subprocess.Popen[str]:
    """Start a stage as a process of its own, as DVC does."""
    there = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(command(stage, world, out, **changed), cwd=world, env=there, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a stage that should end well; return what it said."""
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said[-4000:]
    return said


def published(folder: Path) -> dict[str, bytes]:
    """Every byte that a stage published below `folder`."""
    files = [folder / "scores.json", folder / "curve.csv", *sorted((folder / "model").rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def curve_of(folder: Path) -> list[dict[str, float]]:
    """The learning curve below `folder`."""
    with (folder / "curve.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
