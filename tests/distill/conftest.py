"""What the tests of this room share: tiny teacher and student, data, and a stage run in this process."""

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tasks.runtime.lease import Lease
from tasks.runtime.params import check_section
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, llama, save

FLAGS = {
    "teacher-topk": {"teacher": "teacher", "student": "base", "sets": "sets", "out": "topk"},
    "recalibrate": {"topk": "topk", "student": "base", "sets": "sets"},
    "student": {"base": "base", "teacher": "teacher", "sets": "sets", "topk": "topk", "recalibration": "recalibrate.json"},
    "student-eval": {"base": "base", "teacher": "teacher", "students": "students", "corpus": "corpus", "sets": "sets"},
}
SMALL = {
    "teacher-topk": {"max_length": 24, "batch_size": 4, "threads": 1},
    "recalibrate": {"max_length": 24},
    "student-eval": {"threads": 1},
    "student": {"max_length": 24, "batch_size": 4, "threads": 1, "learning_rate": 0.01},
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models and two data sets, which is also where a stage runs."""
    draw = random.Random(0)
    save(llama(1), tmp_path / "teacher")
    save(llama(0), tmp_path / "base")
    for name, count in (("sft", 24), ("valid", 12)):
        pairs = [(draw.choices(WORDS, k=draw.randint(2, 6)), draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(count)]
        write_records(tmp_path / f"sets/{name}.jsonl", [{"prompt": " ".join(p), "completion": " ".join(c)} for p, c in pairs])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(world: Path) -> Callable[..., Path]:
    """Call a stage's main in this process, some flags changed; returns the folder of its scores."""

    def start(module: ModuleType, flags: dict[str, str] | None = None, **changed) -> Path:
        section = module.Params.section
        params = {**SMALL[section], **changed}
        outs = {name: f"{section}.{kind}" for name, kind in (("scores", "json"), ("curve", "csv"))}
        curve = {"curve": outs["curve"]} if section in ("student", "student-eval") else {}
        outs = {"scores": outs["scores"], **curve, **({"out": "model"} if section == "student" else {})}
        places = {**outs, **FLAGS[section], **(flags or {})}
        with Lease(Path("work"), "test") as lease:
            module.main(
                check_section(module.Params, {section: params}, "params.yaml"),
                Run(section, "identity", lease, {"teacher": {"model.safetensors": "hash"}}),
                **{name: world / place for name, place in places.items()},
            )
        return world

    return start
