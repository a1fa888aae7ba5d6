"""One warm Lean for every test that needs a real one: starting it is most of what they cost."""

from collections.abc import Iterator

import pytest

from tasks.prove.checker import CheckerSettings
from tasks.prove.lean_wasm import LeanWasm
from tasks.prove.repl import ReplChecker


@pytest.fixture(scope="session")
def lean() -> Iterator[ReplChecker]:
    """The pinned Lean, installed under .temper/lean where it is not there yet."""
    settings = CheckerSettings(heartbeats=5_000, seconds=120)
    with ReplChecker(LeanWasm(settings), settings) as checker:
        yield checker
