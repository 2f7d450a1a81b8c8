"""A version's model card: what it is, what it was made of, what it is good for, how it scores, how to load it.

The same Markdown is with the run's reports and in the registered model, and is written again when the gate has decided.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluate.metrics import lower_is_better
from ..refs import Decision, EvalReport, ModelRef, Scores
from ..storage import Store
from ..tables import CONTROLS, in_order

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ..config import RunConfig
    from ..runs import RunRecord

FILE = "model-card.md"
"""Its name in the registered model."""
DETAILS = ("extractor", "n_generated", "n_reference", "reference_split", "control_split", "resize", "torch_fidelity")
"""What of the protocol is said in the card; its hash stands for all of it."""


def card(
    config: RunConfig,
    record: RunRecord,
    report: EvalReport,
    ref: ModelRef | None = None,
    decision: Decision | None = None,
) -> str:
    """Markdown. Without `ref` the version has no number yet, without `decision` the gate has not been asked."""
    product, best = config.registration.model, report.best
    uri = f"models:/{product}/{ref.version}" if ref else f"models:/{product}@candidate"
    points = config.prepare.kind == "point"
    made = "points in the plane" if points else f"images like those of its training data ({config.prepare.described()})"
    given = "a sentence and random noise" if "caption" in config.columns() else "random noise"
    ways = _ways(config)
    if ways:
        made = f"images of what they are to be translated to ({config.prepare.described()})"
        given = f"images ({' or '.join(ways)})" if len(ways) > 1 else "images"
    rows = ", ".join(f"{count:,} {split}" for split, count in record.dataset.rows.items())
    return "\n".join([
        f"# {product}{f' version {ref.version}' if ref else ''}",
        "",
        f"A generative adversarial network that makes {made}: {given} in, {'points' if points else 'images'} out. "
        f"Best snapshot of run `{report.run_id}`, after {best.checkpoint.images_seen / 1000:g} thousand real images.",
        "",
        "## Data",
        "",
        f"`{config.prepare.source.name}`, {config.prepare.described()}: {rows}. "
        f"Digest `{report.dataset_digest}`. Scores use the test split, which no network was trained on.",
        "",
        "## Recipe",
        "",
        *_recipe(config, record),
        f"- weights `{best.checkpoint.generator_sha256}` (sha256 of generator.safetensors), a moving average",
        "",
        "## Intended use, and limits",
        "",
        *_limits(report, points, ways),
        "",
        "## Scores",
        "",
        *_scores(report, decision),
        "",
        *_alarms(report),
        "## Decision",
        "",
        *_decision(decision, product),
        "",
        "## How to load it",
        "",
        "```python",
        "import mlflow, pandas as pd",
        "",
        f'model = mlflow.pyfunc.load_model("{uri}")',
        *(
            [
                "# `images` is uint8 (n, height, width, channels), of any size; the answer has the same:",
                f'translated = model.predict(images, params={{"direction": "{ways[-1]}"}})'
                if len(ways) > 1
                else "translated = model.predict(images)",
            ]
            if ways
            else [
                'samples = model.predict(pd.DataFrame({"seed": [0] * 64}))'
                f"  # {'float32 (64, 2)' if points else 'uint8 (64, height, width, channels)'}"
            ]
        ),
        *(
            [
                "# Classes are drawn, each as likely as any other, unless a column asks for them by name or number:",
                'samples = model.predict(pd.DataFrame({"seed": [0, 0], "label": ["0", "1"]}))',
            ]
            if "label" in config.columns()
            else []
        ),
        *(
            [
                "# Texts are drawn from captions of the training data, unless a column says what is to be seen:",
                'samples = model.predict(pd.DataFrame({"seed": [0, 0], "text": ["what is to be seen"] * 2}))',
            ]
            if "caption" in config.columns()
            else []
        ),
        "```",
        "",
        "```",
        f"ganpipe generate {uri} --input FOLDER {f'--direction {ways[-1]} ' if len(ways) > 1 else ''}--out translated"
        if ways
        else f"ganpipe generate {uri} --n 64 --seed 0 --out samples.png",
        f"ganpipe lineage {product}{f' --version {ref.version}' if ref else ''}",
        "```",
        "",
    ])  # fmt: skip


def _recipe(config: RunConfig, record: RunRecord) -> list[str]:
    """The recipe's own fields, those that are off left out, and what it was trained with."""
    fields = config.gan.model_dump(mode="json", exclude={"name"})
    said = [f"{name} {_short(value)}" for name, value in fields.items() if value not in (None, False, 0, "none")]
    start = f"`{record.start_checkpoint.prefix}`" if record.start_checkpoint else "scratch"
    code = ""
    if "sha" in record.git:
        code = f", code `{record.git['sha'][:12]}`{' with changes' if record.git.get('dirty') else ''}"
    return [
        f"- `{config.gan.name}`: {', '.join(said)}",
        f"- batch {config.train.batch}, {config.train.precision}, seed {config.train.seed}, from {start}",
        f"- configuration `{record.config_digest[:12]}`{code}",
    ]


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_short(inner)}" for name, inner in value.items() if inner is not None) + ")"
    return str(value)


def _ways(config: RunConfig) -> list[str]:
    """Directions that a translator knows; nothing of others."""
    if config.recipe().output(config.prepare.columns) != "translation":
        return []
    return ["AtoB", "BtoA"] if "b" in config.columns() else ["AtoB"]


def _limits(report: EvalReport, points: bool, ways: list[str]) -> list[str]:
    """What holds of any such model, and what its own numbers say against it."""
    lines = ["Made to compare objectives on a distribution whose modes are known.", ""]
    if not points:
        lines = [
            "Made to draw images of the distribution it was trained on: for studies of it, as test data, or to be "
            "trained on from. Not made for decisions about people, nor to pass for evidence of anything real.",
            "",
            "- It knows nothing but its training data, and has their gaps and biases.",
            "- Samples may be close to training images: the report shows the closest ones.",
        ]
    if ways:
        lines = [
            "Made to translate images like those of its training data: what it adds is likely there, and not known to "
            "be. Not made for decisions about people, nor to pass for evidence of anything real.",
            "",
            "- It knows nothing but its training data, and has their gaps and biases; images unlike these are "
            "translated all the same.",
        ]
    best, floor = report.best.scores, next((c.scores for c in report.controls if c.name == "real"), {})
    for metric, value in best.items():
        real = floor.get(metric, math.nan)
        if metric.partition("_")[0] in ("precision", "recall") and math.isfinite(real) and value < real:
            what = "unlike any real one" if metric.startswith("precision") else "not reached"
            whose = "samples are" if metric.startswith("precision") else "real ones are"
            lines.append(f"- {1 - value:.0%} of {whose} {what} ({metric}; held-out real ones: {1 - real:.0%}).")
    return lines


def _scores(report: EvalReport, decision: Decision | None) -> list[str]:
    """Table with intervals, the metric of comparison first, and the protocol."""
    columns: dict[str, Scores] = {"this version": report.best}
    columns |= {CONTROLS.get(control.name, control.name): control for control in report.controls}
    protocol = report.protocol
    metrics = in_order(report.best.scores, report.metric, protocol)
    said = ", ".join(f"{name} {protocol[name]}" for name in DETAILS if name in protocol)
    return [
        f"| metric | {' | '.join(columns)} |",
        f"| --- {'| --- ' * len(columns)}|",
        *(
            f"| {metric} ({'lower' if lower_is_better(metric) else 'higher'} is better) | "
            f"{' | '.join(_cell(scores, metric) for scores in columns.values())} |"
            for metric in metrics
        ),
        "",
        f"Mean of {len(report.best.seeds)} sample seeds{'; in brackets 95 % intervals' * bool(report.best.intervals)}. "
        f"Protocol `{report.protocol_hash}`: {said}. Scores of unlike protocols cannot be compared.",
    ]


def _cell(scores: Scores, metric: str) -> str:
    if metric not in scores.scores:
        return "-"
    value = f"{scores.scores[metric]:.4g}"
    if metric not in scores.intervals:
        return value
    low, high = scores.intervals[metric]
    return f"{value} [{low:.4g}, {high:.4g}]"


def _alarms(report: EvalReport) -> list[str]:
    if report.diagnostics is None:
        return []
    lines = [f"- {'**raised**' if alarm.raised else 'quiet'} {alarm.name}: {alarm.detail}"
             for alarm in report.diagnostics.alarms]  # fmt: skip
    return ["## Alarms", "", *lines, ""]


def _decision(decision: Decision | None, product: str) -> list[str]:
    if decision is None:
        return [f"The gate had not been asked when this was written; `ganpipe lineage {product}` says what it decided."]
    verdict = "promoted" if decision.promoted else "not promoted"
    return [
        f"**{verdict}**, {decision.decided:%Y-%m-%d %H:%M} UTC: {decision.reason}",
        *(["", *(f"- {'passed' if c.passed else '**failed**'} {c.name}: {c.detail}" for c in decision.checks)]
          if decision.checks else []),
    ]  # fmt: skip


# --- where it is kept --------------------------------------------------------------------------------------------


def key(ref: ModelRef) -> str:
    """Of a version's card in the store: beside the other reports of its run."""
    return f"runs/{ref.checkpoint.run_id}/reports/model-card-v{ref.version}.md"


def keep(ref: ModelRef, report: EvalReport, decision: Decision | None, store: Store, client: MlflowClient) -> None:
    """Write the card as far as it is known: to the run's reports, and to the run and the registered model in MLflow."""
    from ..runs import open_run

    record, config = open_run(store, ref.checkpoint.run_id)
    text = card(config, record, report, ref, decision)
    store.write_bytes(key(ref), text.encode())
    client.log_text(ref.tracking_run_id, text, f"reports/{key(ref).rpartition('/')[2]}")
    source = client.get_model_version(ref.product, ref.version).source or ""  # its `model_id` is None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.write_text(text, encoding="utf-8")
        client.log_model_artifact(source.removeprefix("models:/"), str(path))
