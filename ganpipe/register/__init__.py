"""Stage 4: the best checkpoint becomes a version of a product, and the gate decides what production loads.

Reading order: package (weights + code) -> registry (MLflow) -> gate (the verdict) -> audit (pointer and log) ->
promotion (asks the gate, moves the pointer) -> resolve, lineage.
"""

from __future__ import annotations

from ..config import RunConfig
from ..refs import EvalReport, ModelRef
from ..settings import Settings
from ..storage import open_store
from . import registry
from .lineage import lineage, lineage_markdown
from .promotion import check, promote, rollback
from .resolve import resolve

__all__ = ["check", "lineage", "lineage_markdown", "promote", "resolve", "rollback", "run"]


def run(config: RunConfig, report: EvalReport, settings: Settings) -> ModelRef:
    """Register the report's best checkpoint as a version of `register.model`, alias `candidate`.

    The same checkpoint is registered once: asked again, the existing version is returned. Raises InputError when MLflow
    is off, WorkFailed when it cannot.
    """
    return registry.register(config, report, open_store(settings.store), settings)
