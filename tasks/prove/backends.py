"""Which checker answers: the one place where settings become a backend behind its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.prove.checker import Checker, CheckerSettings
from tasks.prove.install import TOOLCHAIN
from tasks.prove.lean_repl import LeanRepl
from tasks.prove.lean_wasm import LeanWasm
from tasks.prove.recorded import Recorded, Verdicts
from tasks.prove.repl import ReplChecker
from tasks.runtime.params import UserError


@contextmanager
def connect(settings: CheckerSettings, cache: Path | None) -> Iterator[Checker]:
    """Open the backend that the settings name, and its cache if there is one. Lean starts with the first unknown candidate."""
    with ExitStack() as stack:
        if settings.backend == "recorded":
            if cache is None or not cache.is_file():
                raise UserError(f"{cache}: no such file of verdicts; the recorded backend has nothing to answer from")
            yield Recorded(stack.enter_context(Verdicts(cache)), settings, settings.toolchain or TOOLCHAIN)
            return
        lean = LeanWasm(settings) if settings.backend == "lean-wasm" else LeanRepl(settings)
        checker = stack.enter_context(ReplChecker(lean, settings))
        if cache is None or not lean.toolchain:  # a verdict of nobody knows which Lean is not kept
            yield checker
        else:
            yield Recorded(stack.enter_context(Verdicts(cache)), settings, lean.toolchain, checker.check)
