"""What the tests of this room share: inputs for every trainer, and what each publishes when nothing happens to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.forked import finish
from tests.chaos.trainers import TRAINERS, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all trainers read. Importing the Trainer here lets every fork have it for nothing."""
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401
    import trl  # noqa: F401

    return write_world(tmp_path_factory.mktemp("trainers"))


@pytest.fixture(scope="session")
def whole(world: Path) -> Callable[[str], Path]:
    """Return the folder of outs of a trainer that ran undisturbed, without a single checkpoint."""

    def _whole(name: str) -> Path:
        place = world / f"whole-{name}"
        if not (place / "out").exists():
            finish(TRAINERS[name].module, TRAINERS[name].arguments(world, place), place)
        return place / "out"

    return _whole
