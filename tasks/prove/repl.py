"""Checking proofs over a Lean REPL: the library is imported once, each proof is elaborated in that same environment.

Command mode alone is used: tactic mode has accepted wrong proofs. The protocol is that of the community's REPL; what differs
between a native Lean and ours, how it is started and how its environment is looked at, is a `Lean`. A candidate that makes Lean
hang or die takes only itself along: Lean is started again, and the candidate is tried once more, first in a fresh one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from tasks.prove.checker import Backend, Candidate, CheckerSettings, Reason, Verdict
from tasks.prove.process import Lost
from tasks.prove.rules import Refusal, declared_name, refusal
from tasks.runtime.params import UserError

NAMESPACE = "Temper.Candidate"
"""Where candidates live, so that a theorem of the library's own name can be proved again."""
STATEMENTS_KEPT = 256
"""Statements whose environments are kept for the next sample of the same theorem."""
FOUNDATIONS = frozenset({"propext", "Classical.choice", "Quot.sound"})
"""The axioms that Lean's library is built on."""


class Talk(Protocol):
    """Something that answers requests: a process, or a server over HTTP. Raises Lost."""

    peak_bytes: int

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to one request."""

    def close(self) -> None:
        """Stop it."""


class Lean(Protocol):
    """What differs between one Lean and another."""

    backend: Backend
    toolchain: str
    library_commit: str

    def start(self) -> Talk:
        """Start a REPL whose version is the expected one. Raises UserError when there is none, or another."""

    def prove(self, talk: Talk, text: str, env: int, statement_env: int, name: str, seconds: float) -> tuple[Messages, Looked]:
        """Elaborate a proof, and look at the theorem that came of it if there were no errors."""


Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Looked:
    """What Lean's environment says of the theorem that a proof made."""

    theorem: bool
    """It is there, as a theorem."""
    same_type: bool
    """It states what the given statement states."""
    axioms: frozenset[str]
    """What it rests on besides the library's theorems."""


class ReplChecker:
    """A checker over a REPL that starts with the first proof to be checked."""

    def __init__(self, lean: Lean, settings: CheckerSettings) -> None:
        """Check with `lean`; nothing is started yet."""
        self._lean = lean
        self._settings = settings
        self._talk: Talk | None = None
        self._base = 0
        self._statements: OrderedDict[str, tuple[int | None, str]] = OrderedDict()
        self.starts = 0
        self.peak_bytes = 0

    def __enter__(self) -> ReplChecker:
        """Serve until the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop Lean."""
        self.stop()

    def check(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in their order."""
        return [self._verdict(candidate) for candidate in candidates]

    def stop(self) -> None:
        """Stop Lean; the next candidate starts it again."""
        if self._talk:
            self.peak_bytes = max(self.peak_bytes, self._talk.peak_bytes)
            self._talk.close()
        self._talk = None
        self._statements.clear()

    def elaborates(self, statement: str) -> tuple[bool, str]:
        """Whether a statement, up to its `:=`, can be stated in the library; if not, Lean's message. Raises Lost."""
        if statement not in self._statements:
            answer = self._ask({"cmd": f"{statement} sorry", "env": self._env()})
            errors = [message for message in messages_of(answer) if message["severity"] == "error"]
            self._statements[statement] = (None, errors[0]["data"]) if errors else (answer["env"], "")
            if len(self._statements) > STATEMENTS_KEPT:
                _, (env, _) = self._statements.popitem(last=False)
                if env is not None:
                    self._forget(env)
        self._statements.move_to_end(statement)
        env, detail = self._statements[statement]
        return env is not None, detail

    def _verdict(self, candidate: Candidate) -> Verdict:
        begun = time.perf_counter()
        found = refusal(candidate)
        if found:
            return self._say(found, 0.0)
        for attempt in (1, 2):
            try:
                found = self._prove(candidate)
                break
            except Lost as lost:
                self.stop()
                late = Refusal("timeout", str(lost), None)
                found = late if lost.cause == "late" else Refusal("crashed", f"Lean was lost {attempt} times: {lost}", None)
        return self._say(found, time.perf_counter() - begun)

    def _say(self, found: Refusal | None, seconds: float) -> Verdict:
        lean = self._lean
        verdict = found or Refusal("verified", "", None)
        return Verdict(
            found is None,
            verdict.reason,
            verdict.detail,
            verdict.position,
            seconds,
            lean.backend,
            lean.toolchain,
            lean.library_commit,
        )

    def _prove(self, candidate: Candidate) -> Refusal | None:
        possible, detail = self.elaborates(candidate.statement)
        if not possible:
            return Refusal("unsupported", f"the statement does not elaborate: {detail}", None)
        name = f"{NAMESPACE}.{declared_name(candidate)}"
        statement_env = self._statements[candidate.statement][0]
        assert self._talk is not None
        assert statement_env is not None
        seconds = self._settings.seconds
        messages, looked = self._lean.prove(self._talk, candidate.proof, self._base, statement_env, name, seconds)
        return judge(messages, looked)

    def _env(self) -> int:
        """Return the environment of the header, starting Lean if it does not run."""
        if self._talk is None:
            self._talk = self._lean.start()
            self.starts += 1
            try:
                answer = self._ask({"cmd": prelude(self._settings)}, self._settings.start_seconds)
                errors = [message["data"] for message in messages_of(answer) if message["severity"] == "error"]
            except Lost as lost:
                self.stop()
                raise UserError(f"{self._lean.backend} does not start: {lost}; `temper doctor` looks it over") from None
            if errors or "env" not in answer:
                self.stop()
                raise UserError(f"{self._lean.backend}: the header does not elaborate: {(errors or [str(answer)])[0]}")
            self._base = answer["env"]
        return self._base

    def _ask(self, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        assert self._talk is not None
        return self._talk.ask(request, seconds or self._settings.seconds)

    def _forget(self, env: int) -> None:
        with suppress(Lost):
            self._ask({"forget": env})


def prelude(settings: CheckerSettings) -> str:
    """Return what every candidate is checked under: imports first, then bounds, then the header's own commands.

    Unknown names are errors, not variables: else `x : Natt` would state something about every type.
    """
    lines = settings.header.splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    rest = [line for line in lines if not line.startswith("import ")]
    bounds = ["set_option autoImplicit false", "set_option relaxedAutoImplicit false"]
    return "\n".join([*imports, *bounds, *rest, f"set_option maxHeartbeats {settings.heartbeats}", f"namespace {NAMESPACE}"])


def messages_of(answer: dict[str, Any]) -> Messages:
    """Return the messages of an answer. Raises Lost when it is not an answer of the protocol."""
    messages = answer.get("messages", [])
    if "message" in answer or not isinstance(messages, list):
        raise Lost("garbage", f"the REPL refused the request: {str(answer.get('message', answer))[:200]}")
    return messages


def judge(messages: Messages, looked: Looked) -> Refusal | None:
    """Return why Lean's answer to a proof is no verification, or None when it is one."""
    for message in messages:
        if message["severity"] == "error":
            return Refusal(error_reason(message["data"]), message["data"], _position(message))
    for message in messages:
        if "declaration uses" in message["data"] and "sorry" in message["data"]:
            return Refusal("sorry", message["data"], _position(message))
    if not looked.theorem:
        return Refusal("error", "Lean holds no theorem of that name afterwards", None)
    if "sorryAx" in looked.axioms:
        return Refusal("sorry", "the proof rests on sorryAx", None)
    if others := sorted(looked.axioms - FOUNDATIONS):
        return Refusal("axiom", f"the proof rests on {', '.join(others)}", None)
    return None if looked.same_type else Refusal("statement_changed", "the theorem does not say what the statement says", None)


def error_reason(data: str) -> Reason:
    """Return the reason that one of Lean's errors stands for: the bound on work has its own."""
    return "timeout" if "maximum number of heartbeats" in data or "(deterministic) timeout" in data else "error"


def _position(message: dict[str, Any]) -> tuple[int, int] | None:
    place = message.get("pos")
    return (place["line"], place["column"]) if place else None
