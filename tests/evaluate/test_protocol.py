"""Protocols: every field counts, and unlike ones are not compared."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from evaluate_data import run_config

from ganpipe.errors import InputError
from ganpipe.evaluate.metrics import METRICS, base_name, default_metric, gate_metric, lower_is_better, metric_names
from ganpipe.evaluate.protocol import SINCE_2, UNCOUNTED, Controls, Protocol, differences, require_same, seeds

PROTOCOL = Protocol(
    extractor="domain", weights_sha256="ab", torch_fidelity="0.4.0", dataset_digest="cd", resize="none",
    n_reference=1000, n_generated=300, chunk=64, kid_subsets=10, kid_subset_size=300, isc_splits=1, prc_neighborhood=3,
)  # fmt: skip
FREE = [
    name
    for name in Protocol.model_fields
    if name not in {"format", "reference_split", "control_split", "ema", "precision", "back", *UNCOUNTED}
]


def changed(field: str) -> Protocol:
    value = getattr(PROTOCOL, field)
    if isinstance(value, Controls):
        value = value.model_copy(update={"draws": value.draws + 1})
    else:
        value = value + 1 if isinstance(value, int) else f"{value}x"
    return PROTOCOL.model_copy(update={field: value})


@pytest.mark.parametrize("field", FREE)
def test_every_field_changes_the_hash_and_is_named(field: str) -> None:
    other = changed(field)
    assert other.hash != PROTOCOL.hash
    assert len(differences(PROTOCOL, other)) == 1
    with pytest.raises(InputError, match=field):
        require_same(PROTOCOL, other)


def test_the_hash_is_stable_and_survives_json() -> None:
    assert Protocol.model_validate_json(PROTOCOL.model_dump_json()).hash == PROTOCOL.hash
    assert len(PROTOCOL.hash) == 16
    require_same(PROTOCOL, PROTOCOL, ([1, 2], [1, 2]))


def test_unlike_seeds_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"sample seeds: \[1\] -> \[2\]"):
        require_same(PROTOCOL, PROTOCOL, ([1], [2]))


def test_only_inception_gives_a_fid() -> None:
    assert metric_names("inception") == METRICS
    assert set(metric_names("domain")) == {f"{base}_domain" for base in METRICS}
    assert lower_is_better("kid_domain") and not lower_is_better("recall_domain")


def test_names_with_underscores_are_told_apart() -> None:
    assert lower_is_better("fid_inf") and lower_is_better("fid_inf_domain") and lower_is_better("entropy_conditional")
    assert not lower_is_better("entropy_marginal_domain") and not lower_is_better("coverage")
    assert default_metric(["kid_domain", "fid_inf_domain", "fid_domain"]) == "fid_domain"
    assert default_metric(["fid_inf", "fid"]) == "fid"
    assert base_name("fid_inf_domain") == "fid_inf" and base_name("fid_inference") == "fid" and base_name("f") is None
    with pytest.raises(InputError, match="'entropy' is no metric"):
        lower_is_better("entropy")


def test_protocols_of_before_keep_their_hash_and_compare_with_none_of_today() -> None:
    stored = {**PROTOCOL.model_dump(mode="json", exclude={*UNCOUNTED, *SINCE_2}), "format": 1}
    canonical = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    before = Protocol.model_validate(stored)
    assert before.hash == hashlib.sha256(canonical.encode()).hexdigest()[:16] != PROTOCOL.hash
    with pytest.raises(InputError, match="format: 1 -> 2"):
        require_same(before, PROTOCOL)


def test_seeds_of_two_purposes_share_none() -> None:
    assert seeds("select", 3) == seeds("select", 5)[:3]
    assert not set(seeds("select", 50)) & set(seeds("score", 50))


def test_unknown_metrics_are_refused_with_the_names() -> None:
    assert gate_metric(run_config()) == "fid_domain"
    with pytest.raises(InputError, match=r"register\.metric: 'fid'.*fid_domain"):
        gate_metric(run_config("register.metric=fid"))
    with pytest.raises(InputError, match=r"register\.require\.fid"):
        gate_metric(run_config("register.require={fid: {at_most: 3}}"))


def test_importing_the_stage_imports_no_torch() -> None:
    code = "import sys, ganpipe.evaluate; assert not {'torch', 'torch_fidelity', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
