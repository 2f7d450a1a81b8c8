"""What MLflow's pages say in words: notes of an experiment, a run, a product and a version, and the view of the nights.

All is Markdown with links that work within MLflow's own pages. A note that somebody has rewritten is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .config import RunConfig
from .evaluate.protocol import headline
from .refs import Decision, EvalReport, ModelRef
from .runs import RunRecord
from .tables import compared, control_columns

NOTE = "mlflow.note.content"
FOOTER = "*Kept up to date by ganpipe; take this line out to keep words of your own.*"
VIEW = "nights"
PAGES = "workflowType=machine_learning"
"""MLflow has other pages for language models."""


def may_replace(note: str | None) -> bool:
    """Whether a note is ours to write."""
    return not note or note.rstrip().endswith(FOOTER)


def _note(*lines: str) -> str:
    return "\n".join([*lines, "", FOOTER])


# --- links -------------------------------------------------------------------------------------------------------


def product_link(product: str) -> str:
    return f"[{product}](#/models/{product}?{PAGES})"


def version_link(ref: ModelRef) -> str:
    return f"[version {ref.version}](#/models/{ref.product}/versions/{ref.version}?{PAGES})"


def view_address(experiment_id: str) -> str:
    """Of the table of nights, within MLflow's pages."""
    return f"#/experiments/{experiment_id}/runs?{PAGES}&viewStateShareKey={VIEW}"


def run_link(experiment_id: str, ref: ModelRef) -> str:
    return f"[{ref.checkpoint.run_id}](#/experiments/{experiment_id}/runs/{ref.tracking_run_id}?{PAGES})"


def report_link(experiment_id: str, ref: ModelRef, report: EvalReport) -> str:
    run = f"#/experiments/{experiment_id}/runs/{ref.tracking_run_id}"
    return f"[The report]({run}/artifacts/reports/{report.protocol_hash}.html?{PAGES})"


# --- the experiment: a product's nights ---------------------------------------------------------------------------


def experiment_tags(experiment_id: str, config: RunConfig) -> dict[str, str]:
    """Note, kind of pages, and the view of the nights, of a product's experiment."""
    product = config.registration.model
    note = _note(
        f"Every run here is a night that competes for {product_link(product)}: [the table of nights]"
        f"({view_address(experiment_id)}) shows decision, score, speed and cost.",
        "",
        "`best/...` is the score of a run's best snapshot on seeds of its own, `eval/...` that of every snapshot, "
        "`control_...` what is no GAN under the same protocol (`ganpipe.protocol_hash`: unlike ones cannot be "
        f"compared). In the [charts]({view_address(experiment_id)}&compareRunsMode=CHART), `best_samples` shows what "
        "every run's best snapshot makes of the same noise, and `samples` all snapshots, with a slider.",
    )
    return {
        NOTE: note,
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": _view(config),
    }


def _view(config: RunConfig) -> str:
    """The columns of the table of nights, the way MLflow's page keeps a view that was saved there."""
    from .evaluate.metrics import gate_metric

    columns = [
        "tags.`ganpipe.decision`",
        "tags.`ganpipe.version`",
        f"metrics.`best/{gate_metric(config)}`",
        "metrics.`progress/kimg`",
        "metrics.`progress/images_per_second`",
        "metrics.`progress/device_hours`",
    ]
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "columnWidths": {name: 260 if name == columns[0] else 150 for name in columns},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "compareRunCharts": [_pictures("best_samples"), _pictures("samples")],
        "compareRunSections": [
            {
                "uuid": "samples",
                "name": "samples",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
                "cardHeight": 640,
            },
        ],
        "isAccordionReordered": True,  # otherwise the pictures come last
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }
    return json.dumps({"name": "Nights", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def _pictures(key: str) -> dict[str, object]:
    """A chart of the runs' pictures, without every parameter beside every picture."""
    return {
        "type": "IMAGE", "uuid": key, "runsCountToCompare": 10, "metricSectionId": "samples", "deleted": False,
        "isGenerated": False, "imageKeys": [key], "step": 0, "showRunParams": False,
    }  # fmt: skip


# --- runs and versions -------------------------------------------------------------------------------------------


def of_run(
    record: RunRecord,
    config: RunConfig,
    report: EvalReport | None = None,
    decision: Decision | None = None,
    experiment_id: str = "",
) -> str:
    """What a run is, how it scored, what was decided about it, and how to make it again."""
    lines = []
    if decision is not None:
        lines += [_headline(decision), "", *_decided(decision, experiment_id), ""]
        lines += [*_table(decision.metric, _columns(decision), report), ""] if decision.candidate_scores else []
    elif report is not None:
        columns = {"best snapshot": report.best.scores} | control_columns(report.controls)
        lines += [f"**{best_score(report)}**, not asked the gate yet", "", *_table(report.metric, columns, report), ""]
    source = f"`{config.prepare.source.name}` ({config.prepare.described()}), `{record.dataset.digest[:12]}`"
    lines += [f"- run `{record.run_id}`: {config.gan.name}, seed {config.train.seed}", f"- data set {source}"]
    if report is not None:
        under = headline(report.protocol, report.protocol_hash)
        lines.append(f"- best at {report.best.checkpoint.images_seen / 1000:g} kimg, protocol {under}")
    if record.flow_run_id:
        lines.append(f"- Prefect's flow run `{record.flow_run_id}`")
    return _note(
        *lines,
        "",
        "```",
        f"ganpipe train --resume {record.run_id}      # go on from its newest checkpoint",
        f"ganpipe generate {record.run_id} --n 64 --out samples.png",
        "```",
    )


def of_version(report: EvalReport, ref: ModelRef, decision: Decision | None, experiment_id: str) -> str:
    """Where a version comes from, its scores beside the controls, and what the gate said."""
    best = report.best
    lines = [] if decision is None else [_headline(decision), "", *_decided(decision, experiment_id), ""]
    return _note(
        *lines,
        f"{run_link(experiment_id, ref)} after {best.checkpoint.images_seen / 1000:g} kimg, scored on "
        f"{len(best.seeds)} seeds under protocol {headline(report.protocol, report.protocol_hash)}; data set "
        f"`{report.dataset_digest[:12]}`. {report_link(experiment_id, ref, report)} shows its samples and what is "
        "behind the scores.",
        "",
        *_table(report.metric, {"this version": best.scores} | control_columns(report.controls), report),
        "",
        "```",
        f"ganpipe generate models:/{ref.product}/{ref.version} --n 64 --out samples.png",
        f"ganpipe lineage {ref.product} --version {ref.version}",
        "```",
    )


def of_product(product: str, champion: ModelRef | None, previous: ModelRef | None, experiment_id: str) -> str:
    """What is in production, and how to load it."""
    lines = [f"No champion yet; [all nights]({view_address(experiment_id)})."]
    if champion is not None:
        before = f"; before it was {version_link(previous)}" if previous else ""
        lines = [
            f"Champion: {version_link(champion)}, of {run_link(experiment_id, champion)}{before}; "
            f"[all nights]({view_address(experiment_id)}).",
            "",
            "```",
            f"ganpipe generate models:/{product}@champion --n 64 --out samples.png",
            f"ganpipe lineage {product}            # what was decided, on what numbers",
            f"ganpipe rollback {product}           # back to the champion before",
            "```",
        ]
    return _note(*lines)


# --- in few words ------------------------------------------------------------------------------------------------


def best_score(report: EvalReport) -> str:
    """`fid_domain 0.4411`"""
    return f"{report.metric} {report.best.scores[report.metric]:.4g}"


def in_short(decision: Decision) -> str:
    """A decision in a table's column."""
    champion = decision.champion
    failed = ", ".join(check.name for check in decision.checks if not check.passed)
    if decision.promoted and not decision.checks:
        return "made champion by hand"
    if decision.promoted:
        return f"promoted over v{champion.version}" if champion else "promoted: first champion"
    if champion is not None and champion.version == decision.candidate.version:
        return "is champion already"
    return f"kept v{champion.version}: {failed}" if champion else f"refused: {failed}"


def _headline(decision: Decision) -> str:
    return f"**{decision.product} version {decision.candidate.version}: {in_short(decision)}**"


def _decided(decision: Decision, experiment_id: str) -> list[str]:
    lines = [decision.reason, ""]
    lines += [
        f"- {'passed' if check.passed else '**failed**'} {check.name}: {check.detail}" for check in decision.checks
    ]
    lines.append(f"- this is {version_link(decision.candidate)} of {product_link(decision.product)}")
    if decision.champion is not None:
        run = run_link(experiment_id, decision.champion)
        lines.append(f"- the champion then was {version_link(decision.champion)}, of {run}")
    return [*lines, f"- decided {decision.decided:%Y-%m-%d %H:%M} UTC by {decision.by}, {decision.where}"]


def _columns(decision: Decision) -> dict[str, Mapping[str, float]]:
    assert decision.candidate_scores is not None
    columns: dict[str, Mapping[str, float]] = {"this version": decision.candidate_scores.scores}
    if decision.champion_scores is not None and decision.champion is not None:
        columns[f"champion (version {decision.champion.version})"] = decision.champion_scores.scores
    return columns | control_columns(decision.controls)


def _table(first: str, columns: Mapping[str, Mapping[str, float]], report: EvalReport | None) -> list[str]:
    head, *rows = compared(first, columns, report.protocol if report else {})
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
