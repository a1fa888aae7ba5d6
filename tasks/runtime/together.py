"""Several stages by one command, one after the other, each in a process forked from one that has done their imports.

Loading torch and transformers is most of what a short stage does; a cell of a study that makes a model and then measures it
pays it once. Each stage still has a process, a lease and an exit code of its own, and the first that fails ends the command:

    python -m tasks.runtime.together -- MODULE FLAGS... -- MODULE FLAGS...
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
from multiprocessing.context import ForkProcess
from types import FrameType

from tasks.runtime.host import hosted
from tasks.runtime.imports import ROOT, project_modules
from tasks.runtime.models import preload
from tasks.runtime.stage import PREEMPTED, REFUSED, die_with_parent, run_stage

SEPARATOR = "--"
TRAINER = ROOT / "tasks/runtime/fit/trainer.py"
"""What reaches this trains with the Trainer, whose import takes as long again as that of a Llama."""


class Together:
    """The stages of one command, and which of them is at work."""

    def __init__(self) -> None:
        """Start with none at work."""
        self._working: ForkProcess | None = None
        self._stopped = False

    def run(self, commands: list[list[str]]) -> int:
        """Run every command in turn; return 0, or the exit code of the first that does not end well."""
        for module, *arguments in commands:
            if self._stopped:
                return PREEMPTED
            self._working = multiprocessing.get_context("fork").Process(target=become, args=(module, arguments))
            self._working.start()
            self._working.join()
            if code := self._working.exitcode:
                return code if code > 0 else 128 - code
        return 0

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Pass SIGTERM on to the stage at work, which checkpoints, and start no other."""
        self._stopped = True
        if self._working and self._working.is_alive():
            self._working.terminate()


def become(module: str, arguments: list[str]) -> None:
    """Be the stage `module` with its flags, as `python -m` would start it; ends the process."""
    run_stage(importlib.import_module(module).main, arguments)


def split(arguments: list[str]) -> list[list[str]]:
    """Return the words of each command: those that follow a separator, up to the next."""
    commands: list[list[str]] = []
    for word in arguments:
        if word == SEPARATOR:
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def main(arguments: list[str]) -> int:
    """Run the commands on the command line; return the exit code."""
    if arguments[:1] != [SEPARATOR] or not all(commands := split(arguments)):
        print("usage: python -m tasks.runtime.together -- MODULE FLAGS... -- MODULE FLAGS...", file=sys.stderr)
        return REFUSED
    if (code := hosted("tasks.runtime.together", arguments)) is not None:
        return code
    die_with_parent()
    together = Together()
    signal.signal(signal.SIGTERM, together.stop)
    preload()
    if any(TRAINER in project_modules(module) for module, *_ in commands):
        importlib.import_module("transformers.trainer")
    return together.run(commands)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
