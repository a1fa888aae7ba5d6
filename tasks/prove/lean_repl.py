"""A native Lean with Mathlib, through the community's REPL over stdin or a server over HTTP that gives the same answers.

The REPL has no time-out of its own, keeps every environment it ever made, and can take any amount of memory: it runs on the
short lead of `process`, and is started afresh after a number of proofs. The version is asked of Lean itself.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import Any

from tasks.prove.checker import SLOW, Backend, CheckerSettings
from tasks.prove.process import Lost, Process
from tasks.prove.repl import Looked, Messages, Talk, messages_of
from tasks.runtime.params import UserError

_AXIOMS = re.compile(r"depends on axioms: \[([^\]]*)\]", re.DOTALL)
_NO_AXIOMS = "does not depend on any axioms"


class LeanRepl:
    """The REPL that the settings name."""

    backend: Backend = "lean-repl"

    def __init__(self, settings: CheckerSettings) -> None:
        """Take command or address from the settings. Raises UserError when there is neither."""
        if not settings.command and not settings.url:
            raise UserError("lean-repl: give `command` (as `lake env .../repl`) or `url`, or use the backend lean-wasm")
        self._settings = settings
        self.toolchain = settings.toolchain
        self.library_commit = settings.library_commit or "unknown"

    def start(self) -> Talk:
        """Start the REPL, or reach the server, and ask it for its version."""
        talk = self._talk()
        try:
            answer = talk.ask({"cmd": "#eval Lean.versionString"}, self._settings.start_seconds)
            said = " ".join(message["data"] for message in messages_of(answer))
        except Lost as lost:
            raise UserError(f"lean-repl does not answer: {lost}; see that `{self._where()}` works by hand") from None
        found = re.search(r"\d+\.\d+\.\d+[-\w]*", said)
        version = found[0] if found else ""
        if not version or (self._settings.toolchain and version != self._settings.toolchain):
            talk.close()
            which, wanted = version or repr(said[:80]), self._settings.toolchain or "any version"
            raise UserError(f"lean-repl: `{self._where()}` is Lean {which}, not {wanted}; change `toolchain`, or the REPL")
        self.toolchain = version
        return talk

    def prove(self, talk: Talk, text: str, env: int, statement_env: int, name: str, seconds: float) -> tuple[Messages, Looked]:
        """Elaborate a proof, then have Lean print what it rests on; that the statement is the given one its text has shown."""
        answer = talk.ask({"cmd": text, "env": env}, seconds)
        messages = messages_of(answer)
        if "env" not in answer or any(message["severity"] == "error" for message in messages) or answer.get("sorries"):
            return messages + _holes(answer), Looked(False, True, frozenset())
        printed = talk.ask({"cmd": f"#print axioms {name}", "env": answer["env"]}, seconds)
        said = " ".join(message["data"] for message in messages_of(printed))
        found = _AXIOMS.search(said)
        axioms = frozenset(part.strip() for part in found[1].split(",")) if found else frozenset()
        return messages, Looked(found is not None or _NO_AXIOMS in said, True, axioms)

    def _where(self) -> str:
        return self._settings.url or " ".join(self._settings.command)

    def _talk(self) -> Talk:
        if self._settings.url:
            return Remote(self._settings.url)
        try:
            return Process(self._settings.command, self._settings.memory_gib)
        except OSError as error:
            raise UserError(f"lean-repl: cannot run `{self._where()}`: {error}; install it, or use lean-wasm") from None


class Remote:
    """A Lean server over HTTP: each request is posted as JSON, each reply is the REPL's answer."""

    def __init__(self, url: str) -> None:
        """Talk to the server at `url`."""
        self._url = url
        self.peak_bytes = 0

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to one request. Raises Lost when none comes."""
        body = json.dumps(request).encode()
        call = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=seconds) as reply:
                answer = json.load(reply)
        except TimeoutError:
            raise Lost("late", f"{SLOW} {seconds:g} s") from None
        except ValueError:
            raise Lost("garbage", f"{self._url} answered what is no JSON") from None
        except (urllib.error.URLError, OSError) as error:
            raise Lost("died", f"{self._url}: {error}") from None
        if not isinstance(answer, dict):
            raise Lost("garbage", f"{self._url} answered {str(answer)[:80]!r}")
        return answer

    def close(self) -> None:
        """Leave the server as it is."""


def _holes(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the open goals of an answer as the warnings that Lean gives for them."""
    return [
        {"severity": "warning", "data": "declaration uses `sorry`", "pos": hole.get("pos")} for hole in answer.get("sorries", [])
    ]
