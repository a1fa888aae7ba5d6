"""A chat model behind an OpenAI-compatible endpoint, asked until it answers, and a store of what was paid for.

What an endpoint has written is kept, whatever happens next: nothing is paid twice.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

KEY = "TEMPER_ENDPOINT_KEY"
"""Environment variable with the endpoint's key, if it wants one."""
Messages = Sequence[Mapping[str, str]]
"""`role` and `content` of each turn."""
T = TypeVar("T")


class Malformed(Exception):
    """A reply that is not what was asked for."""


class Case(Protocol):
    """Something a language model is asked about."""

    def told(self) -> str:
        """Return all that decides the answer, as the text by which it is kept."""


C = TypeVar("C", bound=Case)


@dataclass(frozen=True)
class Endpoint:
    """A chat model behind an OpenAI-compatible endpoint."""

    url: str
    """Up to and without `/chat/completions`."""
    model: str
    timeout: float = 60.0
    """Seconds for one request."""
    retries: int = 5
    """Further attempts after a time-out, 429, 5xx or a malformed reply."""
    wait: float = 1.0
    """Seconds before the first further attempt; doubled each time."""
    sleep: Callable[[float], None] = time.sleep

    def ask(self, messages: Messages, read: Callable[[str], T], temperature: float = 0) -> T:
        """Return what `read` makes of the reply; it raises Malformed to have the model asked again.

        Raises UserError when the endpoint refuses, or still fails after all attempts.
        """
        for attempt in range(self.retries + 1):
            try:
                return read(self._reply(messages, temperature))
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise UserError(f"{self.url}: refuses the request ({error}); check endpoint, model and {KEY}") from None
                fault = str(error)
            except (OSError, http.client.HTTPException, Malformed) as error:  # a time-out is an OSError
                fault = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                self.sleep(self.wait * 2**attempt)
        raise UserError(f"{self.url}: {fault}, {self.retries + 1} times; run again when it answers, what is done is kept")

    def _reply(self, messages: Messages, temperature: float) -> str:
        body = {"model": self.model, "temperature": temperature, "messages": list(messages)}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            return _content(reply.read())


def _content(reply: bytes) -> str:
    """Return the text of a chat completion. Raises Malformed for anything else."""
    try:
        text = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"a reply that is no chat completion ({type(error).__name__}: {error})") from None
    if not isinstance(text, str):
        raise Malformed(f"a reply whose content is {type(text).__name__}, not text")
    return text


@dataclass
class Store:
    """What was written already, by what was asked: JSON Lines that only grow, so that a kill loses one line at most."""

    path: Path
    _known: dict[str, str] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Read what is there; a last line that a kill cut short is dropped from the file."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        self._known = {row["key"]: row["text"] for row in map(json.loads, whole)}
        if len(whole) < len(lines):
            self.path.write_text("".join(whole), encoding="utf-8")

    def through(self, who: str, case: C, write: Callable[[C], str]) -> str:
        """Return what `who` says of `case`, asking only if it is not known."""
        key = hashlib.sha256(f"{who}\n{case.told()}".encode()).hexdigest()
        if key not in self._known:
            text = write(case)
            with self._lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n")
                self._known[key] = text
        return self._known[key]


def write_all(
    cases: Sequence[C], write: Callable[[C], str], store: Store, who: str, parallel: int, progress: Progress
) -> list[str]:
    """Return what is written of every case, `parallel` at once; the first failure is raised when those under way have ended."""
    with ThreadPoolExecutor(parallel) as pool:
        waiting = [pool.submit(store.through, who, case, write) for case in cases]
        try:
            return [one.result() for one in progress.track(waiting)]
        finally:
            for one in waiting:
                one.cancel()
