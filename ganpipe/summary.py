"""The end of a night for people: as plain text, and as the page that Prefect shows."""

from __future__ import annotations

from urllib.parse import unquote

from .evaluate.protocol import headline
from .night import Night, kimg
from .settings import Settings
from .tables import INTERVAL, INTERVAL_NOTE, aligned, compared, control_columns


def score_rows(night: Night) -> list[list[str]]:
    """metric | model | controls | champion, the gate's metric first."""
    model = night.decision.candidate_scores or night.report.best
    champion = night.decision.champion_scores
    others = control_columns(night.report.controls if _one_protocol(night) else night.decision.controls)
    return compared(
        night.decision.metric,
        {"model": model.scores, **others, "champion": champion.scores if champion else {}},
        night.report.protocol,
        model.intervals,
    )


def summary(night: Night, settings: Settings) -> str:
    """The end of a night, in plain text."""
    remote = settings.tracking_uri.startswith("http")
    lines = [
        f"run      {night.run_id}",
        f"trained  {night.checkpoint.images_seen / 1000:g} kimg, best snapshot {kimg(night.report.best)}",
        f"model    {night.model.product} version {night.model.version}",
        "",
        *aligned(rows := score_rows(night)),
        *([f"({INTERVAL_NOTE})"] if INTERVAL in rows[0] else []),
        "",
        f"protocol {_protocol(night)}",
        *(f"alarm    {line}" for line in _alarms(night)),
        f"{_verdict(night)}: {night.decision.reason}",
        "",
        f"samples  {_place(night.grid)}",
        f"report   {_place(night.report_page or night.report_picture)}",
        f"look     {settings.tracking_uri if remote else 'ganpipe ui'}",
    ]
    return "\n".join(lines)


def markdown(night: Night, samples: str | None = None, trend: str | None = None) -> str:
    """The end of a night as a page; `samples` and `trend` are addresses of its pictures."""
    head, *rows = score_rows(night)
    checks = [(check, "passed" if check.passed else "**failed**") for check in night.decision.checks]
    lines = [
        f"# {night.model.product} version {night.model.version}: {_verdict(night)}",
        "",
        night.decision.reason,
        "",
        *(["![samples, the same noise for both](" + samples + ")", ""] if samples else []),
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *([f"{INTERVAL_NOTE.capitalize()}.", ""] if INTERVAL in head else []),
        *(f"- {verdict}: {check.name}: {check.detail}" for check, verdict in checks),
        "",
        *(f"- **alarm** {line}\n" for line in _alarms(night)),
        *(["![score, speed and cost over the nights](" + trend + ")", ""] if trend else []),
        f"Run `{night.run_id}`, {night.checkpoint.images_seen / 1000:g} kimg, best at {kimg(night.report.best)}; "
        f"data set `{night.dataset.digest[:12]}`; protocol {_protocol(night)}.",
        "",
        f"- samples: `{night.grid}`",
        f"- report: {_linked(night)}",
    ]
    return "\n".join(lines) + "\n"


def _alarms(night: Night) -> list[str]:
    """Those that the best snapshot raises."""
    diagnostics = night.report.diagnostics
    return [f"{alarm.name}: {alarm.detail}" for alarm in diagnostics.raised] if diagnostics else []


def _protocol(night: Night) -> str:
    """Of the scores that are shown."""
    report = night.report
    of_report = headline(report.protocol, report.protocol_hash)
    return of_report if _one_protocol(night) else f"{night.decision.protocol_hash} (the run's evaluation: {of_report})"


def _one_protocol(night: Night) -> bool:
    """Whether the gate scored nothing, or under the protocol of the run's evaluation."""
    return night.decision.protocol_hash in ("", night.report.protocol_hash)


def _place(uri: str) -> str:
    """A path, when that is what a URI means."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def _linked(night: Night) -> str:
    """The report's page where a browser reaches it, else its place in the store."""
    place = night.report_page or night.report_picture
    name = place.rpartition("/")[2]
    return f"[{name}]({night.run_page}/artifacts/reports/{name})" if night.run_page else f"`{place}`"


def _verdict(night: Night) -> str:
    return "promoted" if night.decision.promoted else "not promoted"
