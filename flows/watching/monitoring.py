"""What a run is watched for, as infra/monitoring.yaml says: stages slower than usual, scores past their bounds, silence.

A run tells the Prefect server of the first two by events of our own, since Prefect has none; the automations that
`temper serve` makes (flows.watching.automations) turn these and Prefect's own events into notifications.
"""

from __future__ import annotations

import contextvars
import math
import operator
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.planning import history
from tasks.runtime.params import UserError, read_yaml

PLACE = Path("infra/monitoring.yaml")
SLOW = "temper.stage.slow"
OUT_OF_BOUNDS = "temper.score.out-of-bounds"

Bounds = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Profile -> stage -> score -> value; `default` is the profile of a run without one."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slow(_Section):
    """When a stage counts as much slower than usual."""

    factor: float = Field(default=3.0, gt=1)
    """Times the median of its earlier runs with the same params."""
    at_least_seconds: float = Field(default=60.0, ge=0)
    """A stage that has run for less is never called slow."""
    runs: int = Field(default=3, ge=1, le=history.KEPT_RUNS)
    """Earlier runs that make a median."""

    def limit(self, usual: float) -> float:
        """Return the seconds after which a stage that usually takes `usual` is slow."""
        return max(self.factor * usual, self.at_least_seconds)


class Monitoring(_Section):
    """The whole file."""

    notify: tuple[Annotated[str, Field(pattern="^[a-z0-9-]+/[a-z0-9-]+$")], ...] = ()
    """Prefect blocks that are told, as TYPE/NAME: `webhook/NAME`, or a notification block, as `slack-webhook/NAME`."""
    silent_seconds: float = Field(default=300.0, ge=10)
    """A run without a heartbeat for so long is taken for dead. One that lives sends one every 30 s; do not go below 90."""
    slow: Slow = Slow()
    floors: Bounds = Field(default_factory=dict)
    """Scores that must not fall below a value."""
    ceilings: Bounds = Field(default_factory=dict)
    """Scores that must not rise above a value."""


def read(root: Path) -> Monitoring:
    """Return what the checkout is watched for; the defaults where there is no file. Raises UserError that names the key."""
    if not (root / PLACE).is_file():
        return Monitoring()
    try:
        return Monitoring.model_validate(read_yaml(root / PLACE))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = f"; known are {', '.join(Monitoring.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UserError(f"{PLACE}: {key}: {first['msg']}{known}") from None


class Watch:
    """Watches the stages of one run and tells the server what it sees; call it within the flow run."""

    def __init__(self, root: Path, monitoring: Monitoring, profile: str) -> None:
        """Take what to watch for, and the profile whose bounds hold."""
        self._root, self._monitoring, self._profile = root, monitoring, profile

    @contextmanager
    def pace(self, stage: str, params: Mapping[str, Any]) -> Iterator[None]:
        """Tell, while the block still runs, that it takes much longer than usual: what hangs never ends by itself."""
        usual = history.usual(self._root, stage, params, self._monitoring.slow.runs)
        if usual is None:
            yield
            return
        limit = self._monitoring.slow.limit(usual)
        timer = threading.Timer(limit, contextvars.copy_context().run, [self._slow, stage, usual, limit])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def scores(self, stage: str, scores: Mapping[str, float]) -> list[str]:
        """Tell of every score of a stage that is past its bound, and return what was told; a score that is missing is one."""
        told = []
        floors, ceilings = self._monitoring.floors, self._monitoring.ceilings
        for word, bounds, within in (("below its floor", floors, operator.ge), ("above its ceiling", ceilings, operator.le)):
            for name, bound in bounds.get(self._profile, {}).get(stage, {}).items():
                value = scores.get(name)
                if value is None or not within(value, bound):  # NaN is within nothing
                    told.append(self._past(stage, name, value, bound, word))
        return told

    def _slow(self, stage: str, usual: float, limit: float) -> None:
        message = f"stage {stage} has been running for {limit:.0f} s and usually takes {usual:.0f} s"
        _emit(SLOW, f"temper.stage.{stage}", stage, message, {"stage": stage, "usual_seconds": usual, "limit_seconds": limit})

    def _past(self, stage: str, name: str, value: float | None, bound: float, word: str) -> str:
        message = f"{stage}: {name} is missing; its bound is {bound:g}"
        if value is not None:
            message = f"{stage}: {name} is {value:.4g}, {word} of {bound:g}"
        known = None if value is None or math.isnan(value) else value
        facts = {"stage": stage, "score": name, "value": known, "bound": bound, "profile": self._profile}
        _emit(OUT_OF_BOUNDS, f"temper.score.{stage}.{name}", f"{stage} {name}", message, facts)
        return message


def _emit(event: str, resource: str, name: str, message: str, facts: Mapping[str, Any]) -> None:
    """Send an event to the server of the run; Prefect adds the flow run and the task that it comes from."""
    from prefect.events import emit_event

    about = {"prefect.resource.id": resource, "prefect.resource.name": name}
    emit_event(event, about, payload={"message": message, **facts})
