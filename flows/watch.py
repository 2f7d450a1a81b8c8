"""What watches over nights from Prefect's server, where it outlives every worker."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger, Posture
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore as Automation

TAG = "ganpipe"
DEAD_AFTER = timedelta(seconds=150)
"""Without a sign of life: five in a row, so that a server away for a minute or two kills no night."""
OVERDUE_AFTER = timedelta(hours=26)
"""Without a night that came to its end."""


def automations(deployment: str, deployment_id: str, block: UUID | None, scheduled: bool) -> list[Automation]:
    """What watches over a deployment; `block` takes the messages, when there is one."""

    def told(subject: str, body: str) -> list[ActionTypes]:
        return [SendNotification(block_document_id=block, subject=subject, body=body)] if block else []

    run = "{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run | ui_url }}"
    related = {"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{deployment_id}"}
    found = [
        Automation(
            name="ganpipe: a night without a sign of life has crashed",
            description="Its worker, or the worker's machine, is gone: its slots are given back.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
                after={"prefect.flow-run.heartbeat"},
                expect={
                    "prefect.flow-run.heartbeat",
                    "prefect.flow-run.Completed",
                    "prefect.flow-run.Failed",
                    "prefect.flow-run.Cancelled",
                    "prefect.flow-run.Crashed",
                },
                for_each={"prefect.resource.id"},
                threshold=1,
                within=DEAD_AFTER,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"No sign of life for {DEAD_AFTER.seconds} s: the worker or its machine is gone. "
                    "`ganpipe runs` lists the run, `ganpipe train --resume RUN` continues it.",
                )
            ],
        )
    ]
    if block:
        found.append(
            Automation(
                name=f"ganpipe: {deployment} failed",
                trigger=EventTrigger(
                    posture=Posture.Reactive,
                    match={"prefect.resource.id": "prefect.flow-run.*"},
                    match_related=related,
                    expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
                ),
                actions=told(f"{deployment}: the night failed", run),
            )
        )
    if scheduled:
        found.append(
            Automation(
                name=f"ganpipe: {deployment} is overdue",
                description="No night of this deployment came to its end for 26 hours.",
                trigger=EventTrigger(
                    posture=Posture.Proactive,
                    match={"prefect.resource.id": "prefect.flow-run.*"},
                    match_related=related,
                    expect={"prefect.flow-run.Completed"},
                    threshold=1,
                    within=OVERDUE_AFTER,
                ),
                actions=told(
                    f"{deployment}: no night for 26 hours", "No run of this deployment was completed for 26 hours."
                )
                or [DoNothing()],
            )
        )
    return found
