"""The automations that `temper serve` keeps on the server: what infra/monitoring.yaml watches for, told through Prefect blocks.

Each has a name that begins with `temper: ` and the tag `temper`; those that the file no longer asks for are taken down.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from flows.watching.monitoring import OUT_OF_BOUNDS, SLOW, Monitoring

TAG = "temper"
ADDRESS = "TEMPER_ALERTS_SECRET"
"""Names the environment variable with the address for the webhook block that is made when it is missing."""
ENDED = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "TimedOut", "Cancelled"))
BEAT = "prefect.flow-run.heartbeat"
RUN_FAILED = "flow_run.name ~ ': ' ~ (flow_run.state.message or flow_run.state.name)"
EVENT_SAYS = "event.payload.message"
"""Texts to tell, as expressions of the templates that Prefect's server fills in."""
WEBHOOK = """\
{"text": {{ (%s) | tojson }}, "automation": {{ automation.name | tojson }}, "event": {{ event.event | tojson }}, \
"url": {{ (flow_run | ui_url) | tojson }}}"""
"""What a webhook is sent; `text` is what chat services look for."""

Tell = Callable[[str], list[ActionTypes]]
"""Makes the actions that tell everybody a text."""


def keep(client: SyncPrefectClient, monitoring: Monitoring) -> list[str]:
    """Make the server's automations those of `monitoring`; return the blocks that are named there and are not on the server."""
    blocks, missing = _blocks(client, monitoring)
    wanted = {automation.name: automation for automation in automations(monitoring, blocks)}
    for found in client.read_automations(limit=200):
        if TAG not in found.tags:
            continue
        if _same(found, wanted.get(found.name)):
            del wanted[found.name]
        else:  # made anew: an update through Prefect's client loses what kind of action each is
            client.delete_automation(found.id)
    for automation in wanted.values():
        client.create_automation(automation)
    return missing


def automations(monitoring: Monitoring, blocks: dict[str, UUID]) -> list[AutomationCore]:
    """Return what to watch for as Prefect's automations; `blocks` are the ids of the blocks to tell, by TYPE/NAME."""

    def tell(text: str) -> list[ActionTypes]:
        return [_telling(block, place, text) for block, place in blocks.items()] or [DoNothing()]

    return [_failed(tell), _silent(monitoring.silent_seconds), *_own(tell)]


def _same(found: Automation, wanted: AutomationCore | None) -> bool:
    return wanted is not None and AutomationCore.model_validate(found.model_dump()) == wanted


def _failed(tell: Tell) -> AutomationCore:
    return AutomationCore(
        name="temper: a run failed",
        description="A run of the pipeline or of a study failed, or its process was lost.",
        tags=[TAG],
        trigger=EventTrigger(
            expect={event for event in ENDED if not event.endswith(("Completed", "Cancelled"))},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "temper"},
            posture=Posture.Reactive,
        ),
        actions=tell(RUN_FAILED),
    )


def _silent(seconds: float) -> AutomationCore:
    """Take a silent run for lost: the failure is told by the automation above, and a coordinator sends a lost stage again."""
    return AutomationCore(
        name="temper: a run fell silent",
        description=f"No heartbeat for {seconds:.0f} s: the run's process or its machine is gone. It is marked as crashed.",
        tags=[TAG],
        trigger=EventTrigger(
            after={BEAT},
            expect={BEAT, *ENDED},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": ["temper", "temper-stage"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", force=False, message=f"no heartbeat for {seconds:.0f} s")
        ],
    )


def _own(tell: Tell) -> list[AutomationCore]:
    """Return those that only pass on an event of ours."""
    rules = {
        "a stage is slow": (SLOW, "temper.stage.*", "A stage has been running for much longer than the median of its runs."),
        "a score is out of bounds": (OUT_OF_BOUNDS, "temper.score.*", "A score fell below its floor or rose above its ceiling."),
    }
    return [
        AutomationCore(
            name=f"temper: {name}",
            description=says,
            tags=[TAG],
            trigger=EventTrigger(expect={event}, match={"prefect.resource.id": resource}, posture=Posture.Reactive),
            actions=tell(EVENT_SAYS),
        )
        for name, (event, resource, says) in rules.items()
    ]


def _telling(block: str, place: UUID, text: str) -> ActionTypes:
    if block.startswith("webhook/"):
        return CallWebhook(block_document_id=place, payload=WEBHOOK % text)
    body = f"{{{{ {text} }}}}\n{{{{ flow_run | ui_url }}}}"
    return SendNotification(block_document_id=place, subject="{{ automation.name }}", body=body)


def _blocks(client: SyncPrefectClient, monitoring: Monitoring) -> tuple[dict[str, UUID], list[str]]:
    """Return the blocks of the server that are to be told, and the names of those it has not."""
    found: dict[str, UUID] = {}
    for block in monitoring.notify:
        kind, name = block.split("/")
        if kind == "webhook" and (address := os.environ.get(ADDRESS)):
            _make_webhook(name, address)
        try:
            found[block] = client.read_block_document_by_name(name, kind, include_secrets=False).id
        except ObjectNotFound:
            continue
    return found, [block for block in monitoring.notify if block not in found]


def _make_webhook(name: str, address: str) -> None:
    from prefect.blocks.webhook import Webhook

    made: Any = Webhook(url=SecretStr(address))
    made.save(name, overwrite=True)
