"""Who writes words about Lean: a chat model behind an endpoint, or one in a folder. Asked a list, both answer in its order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.runtime.endpoint import Endpoint, Store, write_all
from tasks.runtime.progress import Progress

Counting = Callable[[float, str], Progress]
"""Starts counting that many requests of that name."""


@dataclass(frozen=True)
class Request:
    """One thing to be written."""

    system: str
    prompt: str
    attempt: int = 0
    """How many answers to it were turned away: a further one is drawn, not the likeliest again."""

    def told(self) -> str:
        """Return all that decides the answer."""
        return json.dumps([self.system, self.prompt, self.attempt], ensure_ascii=False)


class Writer(Protocol):
    """Anything that writes."""

    @property
    def name(self) -> str:
        """Who it is, for the records."""

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Return an answer to each request, in order."""


@dataclass(frozen=True)
class EndpointWriter:
    """A chat model behind an endpoint; what it wrote is kept in a store."""

    endpoint: Endpoint
    store: Store
    parallel: int
    temperature: float
    """Of further attempts; the first takes the likeliest words."""
    counting: Counting

    @property
    def name(self) -> str:
        """The model's name."""
        return self.endpoint.model

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Return the replies, `parallel` at once."""
        who = f"{self.endpoint.url} {self.endpoint.model}"
        return write_all(requests, self._ask, self.store, who, self.parallel, self.counting(len(requests), "requests"))

    def _ask(self, request: Request) -> str:
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.prompt}]
        return self.endpoint.ask(messages, lambda reply: reply, self.temperature if request.attempt else 0)


@dataclass(frozen=True)
class ModelWriter:
    """A model in a folder, sampled here."""

    folder: Path
    max_new_tokens: int
    batch_size: int
    temperature: float
    seed: int
    counting: Counting

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Return a completion of each request; those of one attempt are drawn together."""
        from tasks.runtime.generate import generate
        from tasks.runtime.models import load_causal, on_device

        model, tokenizer = load_causal(self.folder)
        on_device(model)
        texts = generate(
            model,
            tokenizer,
            [f"{request.system}\n\n{request.prompt}" for request in requests],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if requests[0].attempt else 0,
            seed=self.seed + requests[0].attempt,
            batch_size=self.batch_size,
            progress=self.counting(len(requests), "requests"),
        )
        return [samples[0] for samples in texts]
