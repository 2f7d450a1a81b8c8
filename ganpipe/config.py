"""What a run is: one YAML file, every field of it typed, documented and checked before any work starts.

RunConfig = name + prepare + gan + train + evaluate + register
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from .augmentconfig import ControllerConfig
from .configfile import apply_override, plain_copy, read_yaml, to_yaml
from .errors import InputError
from .evaluateconfig import EvaluateConfig
from .options import GanConfig, Section
from .prepareconfig import POINT_SOURCES, AnyPrepareConfig, PrepareConfig, source_name
from .registerconfig import RegisterConfig
from .trainconfig import TrainConfig

if TYPE_CHECKING:
    from .gans.base import GAN


class RunConfig(Section):
    """One run, complete."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case letters, digits and dashes; begins every run id."""
    prepare: AnyPrepareConfig
    """Stage 1."""
    gan: SerializeAsAny[GanConfig]
    """The recipe: `name` picks it from GANS, the other fields are its own."""
    train: TrainConfig
    """Stage 2."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """Stage 3."""
    registration: RegisterConfig = Field(alias="register")
    """Stage 4."""

    @field_validator("gan", mode="wrap")
    @classmethod
    def _recipe(cls, value: Any, handler: Any) -> GanConfig:
        from .gans import GANS

        if isinstance(value, GanConfig):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("a section with a `name` is wanted here")
        if not isinstance(value.get("name"), str) or value["name"] not in GANS:
            raise ValueError(f"gan.name is {value.get('name')!r}; there is {', '.join(GANS)}")
        return GANS[value["name"]].Config.model_validate(value)

    @model_validator(mode="after")
    def _fit_the_data(self) -> RunConfig:
        gan = self.recipe()
        gan.columns(self.prepare.columns)  # an InputError is a ValueError
        for field, size in (("train.batch", self.train.batch), ("train.micro_batch", self.train.micro_batch)):
            if size is not None and size < gan.LEAST_BATCH:
                raise ValueError(
                    f"{field} is {size}, and gan.name {self.gan.name} needs at least {gan.LEAST_BATCH} images at a time"
                )
        if isinstance(self.prepare, PrepareConfig):
            gan.check_resolution(self.prepare.resolution)
            if self.train.jitter is not None and self.train.jitter <= self.prepare.resolution:
                raise ValueError(
                    f"train.jitter is {self.train.jitter}, and prepare.resolution {self.prepare.resolution} is to be "
                    "cropped out of so many pixels; raise train.jitter, or leave it out"
                )
        if isinstance(self.train.augment.p, ControllerConfig) and not gan.absolute_logits():
            raise ValueError(
                "train.augment.p has a controller, which steers by the sign of D's logits, and of this gan's only "
                "the differences mean anything; set train.augment.p to a number or a schedule"
            )
        points, source = self.prepare.kind == "point", self.prepare.source.name
        if self.evaluate.extractor == "triples" and source != "stacked_digits":
            raise ValueError(
                f"evaluate.extractor triples reads stacked digits, and prepare.source is {source}; leave it out "
                "for the default"
            )
        if points != (self.evaluate.extractor == "point"):
            raise ValueError(
                f"evaluate.extractor {self.evaluate.extractor} does not fit prepare.source {source}: points have the "
                "extractor `point`, images have `domain` or `inception`; leave it out for the default"
            )
        if self.train.stop_on and gan.output(self.prepare.columns) == "translation":
            raise ValueError(
                f"train.stop_on looks at images that are drawn, and gan.name {self.gan.name} translates; leave it out"
            )
        for field, given in (
            ("train.mirror", self.train.mirror),
            ("train.jitter", self.train.jitter),
            *((f"train.augment.{name}", True) for name in self.train.augment.transforms()),
            ("train.stop_on", self.train.stop_on),
        ):
            if points and given:
                raise ValueError(f"{field} is for images, and prepare.source {source} makes points; leave it out")
        return self

    @model_validator(mode="after")
    def _measured(self) -> RunConfig:
        from .evaluate.metrics import gate_metric

        gate_metric(self)  # an InputError is a ValueError; told now, not after hours of training
        return self

    def columns(self) -> frozenset[str]:
        """What the recipe takes of the data. Raises InputError when it cannot be there."""
        return self.recipe().columns(self.prepare.columns)

    def recipe(self) -> GAN:
        """What `gan` describes."""
        from .gans import GANS

        return GANS[self.gan.name](self.gan)


# --- from YAML and --set to a resolved RunConfig -----------------------------------------------------------------


def load_config(config: RunConfig | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The resolved configuration from a YAML file or a mapping, and `section.field=value` overrides.

    What the recipe decides by default (its optimizers) stands in the result. Raises InputError naming file and field.
    """
    if isinstance(config, RunConfig):
        config = config_to_json(config)
    if isinstance(config, Mapping):
        origin, raw = "config", plain_copy(dict(config), "config")
    else:
        origin, raw = str(config), read_yaml(Path(config))
    for override in overrides:
        raw = apply_override(raw, override)
    return _validated(_with_recipe_defaults(_with_extractor(raw)), origin)


def _with_extractor(raw: dict[str, Any]) -> dict[str, Any]:
    """Fill `evaluate.extractor` where the data has modes that one of them counts."""
    evaluate, name = {} if raw.get("evaluate") is None else raw["evaluate"], source_name(raw.get("prepare"))
    counting = "point" if name in POINT_SOURCES else "triples" if name == "stacked_digits" else None
    if counting is None or not isinstance(evaluate, dict) or evaluate.get("protocol") is not None:
        return raw
    return {**raw, "evaluate": {"extractor": counting, **evaluate}}


def _with_recipe_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """Fill `train.optimizers` from the recipe. Invalid sections are left for validation to report."""
    from .gans import GANS

    gan, train = raw.get("gan"), raw.get("train")
    if not isinstance(gan, dict) or not isinstance(train, dict):
        return raw
    if not isinstance(gan.get("name"), str) or gan["name"] not in GANS:
        return raw
    recipe = GANS[gan["name"]]
    try:
        defaults = recipe(recipe.Config.model_validate(gan)).optimizers().model_dump(mode="json")
    except ValidationError:
        return raw
    given = train.get("optimizers") or {}
    if not isinstance(given, dict):
        return raw
    return {**raw, "train": {**train, "optimizers": _merged(defaults, given)}}


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, section by section; a section of another `name` stands alone."""
    if given.get("name", defaults.get("name")) != defaults.get("name"):
        return given
    merged = {**defaults, **given}
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            merged[key] = _merged(defaults[key], value)
    return merged


def _validated(raw: dict[str, Any], origin: str) -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if problem["type"] in ("missing", "value_error") else f" (given: {problem['input']!r})"
            field = (
                f"{_field_path(raw, problem['loc'], problem['type'] == 'missing')}: " if problem["loc"] else ""
            )  # a check across sections names its own
            lines.append(f"{field}{message}{given}")
        raise InputError(f"{origin}: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)) from error


def _field_path(raw: Any, loc: Sequence[str | int], missing: bool) -> str:
    """The path as the user wrote it (or, `missing`, should have): pydantic's names of union members are left out."""
    path, here = [], raw
    for position, key in enumerate(loc):
        inside = (isinstance(here, Mapping) and key in here) or (
            isinstance(here, list) and isinstance(key, int) and key < len(here)
        )
        if inside:
            path.append(str(key))
            here = here[key]
        elif missing and position == len(loc) - 1:
            path.append(str(key))
    return ".".join(path) or "the configuration"


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    return config.model_dump(mode="json", by_alias=True)


def config_to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to the same."""
    return to_yaml(config_to_json(config))


def config_digest(config: RunConfig) -> str:
    """sha256 of the resolved configuration."""
    return hashlib.sha256(json.dumps(config_to_json(config), sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`field: old -> new` for every field in which two nested mappings differ."""
    lines = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines
