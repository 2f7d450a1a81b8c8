"""The text of a configuration: YAML 1.2, and overrides of single fields. What the fields mean stands in config.py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from .errors import InputError


class _Constructor(SafeConstructor):
    """YAML 1.2's core schema: what looks like a date is text."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping. Raises InputError naming the file."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a configuration: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """A YAML 1.2 mapping. Raises InputError naming where the text comes from."""
    try:
        raw = _yaml().load(text)
    except YAMLError as error:
        raise InputError(f"{origin}: is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{origin}: a mapping of sections is wanted, found {type(raw).__name__}")
    return raw


def to_yaml(raw: Mapping[str, Any]) -> str:
    """Plain values as YAML text that `read_yaml` reads back to the same."""
    stream = io.StringIO()
    yaml = _yaml()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(raw, stream)
    return stream.getvalue()


def apply_override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    """Apply one `a.b=c`; the value is YAML. A new `name` of a section replaces the whole section."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override!r}: write section.field=value")
    try:
        value = _yaml().load(text) if text.strip() else None
    except YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not YAML: {error}") from error
    parent = raw = plain_copy(raw, f"--set {override!r}")
    for depth, key in enumerate(keys[:-1]):
        if parent.get(key) is None:
            parent[key] = {}
        parent = parent[key]
        if not isinstance(parent, dict):
            raise InputError(f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, it has no fields")
    if keys[-1] == "name" and len(keys) > 1 and parent.get("name", value) != value:
        parent.clear()
    parent[keys[-1]] = value
    return raw


def plain_copy(raw: dict[str, Any], origin: str) -> dict[str, Any]:
    """A deep copy. Raises InputError when it holds what no configuration can."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(raw))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{origin}: only mappings, lists, text, numbers, booleans and null are wanted: {error}"
        ) from error
    return copy
