"""Lean without a native Lean: the real elaborator and kernel in WebAssembly, behind a server of ours that stays warm.

The server is `lean_server.js`. It can look a theorem up in the environment that a proof left behind, so that a verdict rests
on what the kernel holds (a theorem, of the statement's very type, resting on nothing but the library), not on messages alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.prove.checker import Backend, CheckerSettings
from tasks.prove.install import TOOLCHAIN, ensure
from tasks.prove.process import STACK_MIB, Lost, Process
from tasks.prove.repl import Looked, Messages, Talk, messages_of
from tasks.runtime.params import UserError

SERVER = Path(__file__).with_name("lean_server.js")
_STACK_KB = (STACK_MIB - 8) * 1024
"""What V8 may use of the native stack; the rest is what it does not count."""
_JAVASCRIPT_MB = 1024
"""Bound on the JavaScript heap; Lean's own memory is bounded by the module at 2 GiB."""


class LeanWasm:
    """The pinned Lean of `install`."""

    backend: Backend = "lean-wasm"
    toolchain = TOOLCHAIN
    library_commit = "core"

    def __init__(self, settings: CheckerSettings) -> None:
        """Take the bounds from the settings."""
        self._settings = settings

    def start(self) -> Talk:
        """Start the server, installing Lean first if need be."""
        installed = ensure()
        options = [f"--stack-size={_STACK_KB}", f"--max-old-space-size={_JAVASCRIPT_MB}"]
        command = [str(installed.node), *options, str(SERVER), str(installed.folder)]
        process = Process(command, self._settings.memory_gib, readable=(installed.folder / "lean.js", SERVER))
        try:
            found = process.read(self._settings.start_seconds).get("lean")
        except Lost as lost:
            raise UserError(f"Lean does not start: {lost}; remove {installed.folder} to have it installed anew") from None
        if found != TOOLCHAIN:
            process.close()
            raise UserError(f"{installed.folder} holds Lean {found}, not {TOOLCHAIN}; remove it to have that installed")
        return process

    def prove(self, talk: Talk, text: str, env: int, statement_env: int, name: str, seconds: float) -> tuple[Messages, Looked]:
        """Elaborate a proof and look at what came of it, in one request."""
        request: dict[str, Any] = {"cmd": text, "env": env, "keep": False, "theorem": name, "like": statement_env}
        answer = talk.ask(request, seconds)
        seen = answer.get("theorem", {})
        axioms = frozenset(seen.get("axioms", ()))
        return messages_of(answer), Looked(seen.get("kind") == "theorem", seen.get("same_type") is True, axioms)
