"""What the tests of this room share: a folder with everything a stage reads, and a stage run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runtime.lease import Lease
from tasks.runtime.params import check_section
from tasks.runtime.stage import Run
from tests.train.stages import ALL, INPUTS, SMALL, write_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything a stage reads, which is also where it runs."""
    monkeypatch.chdir(write_world(tmp_path))
    return tmp_path


@pytest.fixture
def run(world: Path) -> Callable[..., Path]:
    """Call a stage's main in this process; returns the folder with `model`, `scores.json` and `curve.csv`."""

    def start(module, out: str = "out", **changed) -> Path:
        params_type = module.Params
        params = {**ALL, **SMALL[params_type.section], **changed}
        flags = {name: world / place for name, place in INPUTS[params_type.section].items()}
        outs = {"out": world / out / "model", "scores": world / out / "scores.json", "curve": world / out / "curve.csv"}
        with Lease(Path("work"), "test") as lease:
            module.main(
                check_section(params_type, {params_type.section: params}, "params.yaml"),
                Run(params_type.section, out, lease),
                **flags,
                **outs,
            )
        return world / out

    return start
