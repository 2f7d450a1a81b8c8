"""infra/k8s: what Kubernetes' own schemas say, and what could hurt a cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from conftest import INFRA, documents, run, skip_loudly
from prefect.utilities.templating import apply_values

K8S = INFRA / "k8s"
VERSIONS = ["1.31", "1.34"]
SECRET_KEYS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_API_AUTH_STRING",
}


def kustomized(folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    if not shutil.which("kubectl") or run("kubectl", "kustomize", K8S / "base").returncode:
        skip_loudly("THE KUSTOMIZATIONS ARE NOT BUILT: there is no kubectl of 1.21 or newer")
    built = run("kubectl", "kustomize", folder)
    assert built.returncode == 0, built.stderr
    (tmp_path / "built.yaml").write_text(built.stdout)
    return documents(tmp_path / "built.yaml")


def job() -> dict[str, Any]:
    """The job that Prefect's Kubernetes worker would make, with the template's defaults."""
    template = json.loads((K8S / "work-pool.json").read_text())
    properties = template["variables"]["properties"]
    values = {name: field["default"] for name, field in properties.items() if "default" in field}
    values |= {"name": "night", "command": ["prefect"], "env": [], "labels": {}}
    assert set(properties) == set(values)
    manifest: dict[str, Any] = apply_values(template["job_configuration"], values)["job_manifest"]
    assert "{{" not in json.dumps(manifest)
    return manifest


def safe(pod: dict[str, Any]) -> None:
    """Whether the `restricted` standard allows it, and it waits for the last checkpoint."""
    assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] == "ganpipe"
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == requests["nvidia.com/gpu"] >= 1 and {"cpu", "memory"} <= set(limits)
    assert {"secretRef": {"name": "ganpipe"}} in container["envFrom"]
    assert not SECRET_KEYS & {entry["name"] for entry in container.get("env", [])}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"home": "/var/lib/ganpipe", "tmp": "/tmp", "shm": "/dev/shm"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_and_job_are_what_kubernetes_knows(version: str) -> None:
    files = [path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml"]
    for manifest in [document for path in files for document in documents(path)] + [job()]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_each_kustomization_names_all_that_lies_beside_it() -> None:
    (base,) = documents(K8S / "base/kustomization.yaml")
    assert {path.name for path in (K8S / "base").glob("*.yaml")} == {*base["resources"], "kustomization.yaml"}


def test_pods_are_confined() -> None:
    (worker,) = documents(K8S / "base/worker.yaml")
    safe(worker["spec"]["template"]["spec"])
    safe(job()["spec"]["template"]["spec"])
    assert job()["spec"]["activeDeadlineSeconds"] and job()["spec"]["backoffLimit"] == 0


def test_secrets_are_in_no_kustomization_and_the_example_names_them_all(tmp_path: Path) -> None:
    (example,) = documents(K8S / "secret.example.yaml")
    assert set(example["stringData"]) == SECRET_KEYS and not any(example["stringData"].values())
    assert not any(entry["kind"] == "Secret" for entry in kustomized(K8S / "base", tmp_path))


def test_an_overlay_changes_image_address_and_gpus(tmp_path: Path) -> None:
    built = {entry["kind"]: entry for entry in kustomized(K8S / "overlays/example", tmp_path)}
    for entry in built.values():
        kubernetes_validate.validate(entry, VERSIONS[-1], strict=True)
        assert entry["kind"] == "Namespace" or entry["metadata"]["namespace"] == "ganpipe"
    pod = built["Deployment"]["spec"]["template"]["spec"]
    safe(pod)
    assert pod["containers"][0]["image"] == "registry.example.org/ganpipe:2026.11"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert built["ConfigMap"]["metadata"]["name"] == "ganpipe"
    assert built["ConfigMap"]["data"]["GANPIPE_STORE"] == "s3://our-bucket/ganpipe"
    assert built["ConfigMap"]["data"]["PREFECT_API_URL"]


def test_the_network_policy_lets_nobody_in() -> None:
    (policy,) = (entry for entry in documents(K8S / "base/access.yaml") if entry["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {} and policy["spec"]["ingress"] == []
    ports = {entry["port"] for rule in policy["spec"]["egress"] for entry in rule["ports"]}
    assert {53, 443, 4200, 5000, 8333} == ports
