"""Says in the first person why one hesitates: the rationale of a question whose answers disagree.

An external language model writes it, through an OpenAI-compatible endpoint or from a folder; for Atlas a sentence that names the
competing answers stands in for one. What an endpoint has written is kept, whatever happens next: nothing is paid twice.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.runtime.confidence import name_clusters
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

KEY = "TEMPER_ENDPOINT_KEY"
"""Environment variable with the endpoint's key, if it wants one."""
TASK = (
    "Below are a question, the answer you chose, and other answers you gave when asked again, with the share of each. "
    "Write one to three sentences in the first person that say which gaps in your knowledge make you hesitate between these "
    "answers, and name the other answers. Reply in the form `Reason: ...` and give no number."
)


@dataclass(frozen=True)
class Case:
    """A question whose answers are to be reflected on."""

    question: str
    kept: str
    others: Sequence[tuple[str, float]]
    """Competing answers and their share of the samples, largest first."""

    def told(self) -> str:
        """Return the case as the text that a language model is given."""
        others = "; ".join(f"{answer} ({share:.0%})" for answer, share in self.others) or "none"
        return f"{TASK}\n\nQuestion: {self.question}\nChosen answer: {self.kept}\nOther answers: {others}"


Summarise = Callable[[Case], str]


class Malformed(Exception):
    """A reply that is not what was asked for."""


def from_clusters(case: Case) -> str:
    """Name the competing answers: deterministic, a stand-in for the external model."""
    return name_clusters(case.kept, [answer for answer, _ in case.others])


def reason(text: str) -> str:
    """Return what follows `Reason:` in a reply, on one line. Raises Malformed when it is blank."""
    said = " ".join(text.rpartition("Reason:")[2].split())
    if not said:
        raise Malformed("a reply without text")
    return said


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

    def __call__(self, case: Case) -> str:
        """Return the model's rationale. Raises UserError when it refuses, or still fails after all attempts."""
        for attempt in range(self.retries + 1):
            try:
                return reason(self._ask(case))
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise UserError(f"{self.url}: refuses the request ({error}); check endpoint, model and {KEY}") from None
                fault = str(error)
            except (OSError, http.client.HTTPException, Malformed) as error:  # a time-out is an OSError
                fault = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                self.sleep(self.wait * 2**attempt)
        raise UserError(f"{self.url}: {fault}, {self.retries + 1} times; run again when it answers, what is done is kept")

    def _ask(self, case: Case) -> str:
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": case.told()}]}
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


def from_model(folder: Path, max_new_tokens: int) -> Summarise:
    """Return the summariser that asks the model in `folder`, which takes the likeliest words."""
    from tasks.runtime.generate import generate
    from tasks.runtime.models import load_causal, on_device

    model, tokenizer = load_causal(folder)
    on_device(model)

    def summarise(case: Case) -> str:
        prompts = [case.told()]
        text = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=0, seed=0, batch_size=1)[0][0]
        try:
            return reason(text)
        except Malformed as error:
            raise UserError(f"{folder}: gives {error} for {case.question!r}; choose a model that follows instructions") from None

    return summarise


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

    def through(self, who: str, case: Case, summarise: Summarise) -> str:
        """Return what `who` says of `case`, asking only if it is not known."""
        key = hashlib.sha256(f"{who}\n{case.told()}".encode()).hexdigest()
        if key not in self._known:
            text = summarise(case)
            with self._lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n")
                self._known[key] = text
        return self._known[key]


def summarise_all(
    cases: Sequence[Case], summarise: Summarise, store: Store, who: str, parallel: int, progress: Progress
) -> list[str]:
    """Return the rationale of every case, `parallel` at once; the first failure is raised when those under way have ended."""
    with ThreadPoolExecutor(parallel) as pool:
        waiting = [pool.submit(store.through, who, case, summarise) for case in cases]
        try:
            return [one.result() for one in progress.track(waiting)]
        finally:
            for one in waiting:
                one.cancel()
