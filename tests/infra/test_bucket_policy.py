"""bucket-policy.json on a real server: a store needs all of it, and has nothing beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from botocore.exceptions import ClientError
from conftest import INFRA
from s3_server import Server

from ganpipe.errors import InputError
from ganpipe.storage import open_store
from ganpipe.storage.base import Conflict

PREFIX = "team/store"
POLICY = (INFRA / "bucket-policy.json").read_text()
LIFECYCLE = json.loads((INFRA / "bucket-lifecycle.json").read_text())
ACTIONS = re.findall(r"s3:[A-Z]\w+", POLICY)


def client_of(server: Server) -> Any:
    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    keys = {name: server.environment()[variable] for name, variable in names.items()}
    address = server.environment()["AWS_ENDPOINT_URL"]
    return boto3.session.Session().client("s3", endpoint_url=address, region_name="us-east-1", **keys)


def policy_for(bucket: str) -> str:
    """Filled in, as infra/README.md says; the user is called like the bucket."""
    filled = {"PRINCIPAL": f"arn:aws:iam:::user/{bucket}", "BUCKET": bucket, "PREFIX": PREFIX}
    return re.sub("|".join(filled), lambda found: filled[found[0]], POLICY)


@pytest.fixture
def owner(s3_server: Server) -> Any:
    """The administrator of the server, who owns the bucket."""
    return client_of(s3_server)


@pytest.fixture
def bucket(s3_server: Server, owner: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with the policy and the lifecycle rules, and in the environment the keys of whom the policy names."""
    name = f"policy-{uuid.uuid4().hex[:8]}"
    owner.create_bucket(Bucket=name)
    admin = ["radosgw-admin", "-c", str(s3_server.folder / "ceph.conf"), "user"]
    made = [*admin, "create", "--uid", name, "--display-name", name]
    (keys,) = json.loads(subprocess.run(made, capture_output=True, check=True).stdout)["keys"]
    owner.put_bucket_policy(Bucket=name, Policy=policy_for(name))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.environment()["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["secret_key"])
    yield name
    subprocess.run([*admin, "rm", "--uid", name], check=True, capture_output=True)


def work(bucket: str, owner: Any, folder: Path) -> None:
    """All that a store does, also with what somebody else has put there: whoever wrote an object may read it anyhow."""
    store = open_store(f"s3://{bucket}/{PREFIX}")
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(33 << 20))  # in parts, from 32 MiB on
    store.publish("runs/a", folder, {"format": 1})
    assert store.fetch("runs/a")["weights.bin"].read_bytes() == (folder / "weights.bin").read_bytes()
    assert list(store.published("runs")) == ["runs/a"]
    owner.put_object(Bucket=bucket, Key=f"{PREFIX}/restored", Body=b"restored")
    assert store.read_bytes("restored") == b"restored"
    with pytest.raises(FileNotFoundError):
        store.read_bytes("runs/none")
    store.create("champion.json", b"1")
    store.compare_and_set("champion.json", b"2", expected=b"1")
    with pytest.raises(Conflict):
        store.compare_and_set("champion.json", b"3", expected=b"1")
    place = {"Bucket": bucket, "Key": f"{PREFIX}/runs/b/file"}
    upload = owner.create_multipart_upload(**place)["UploadId"]
    owner.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"part")
    (left,) = store.leftovers(datetime.now(UTC) + timedelta(hours=1))
    left.remove()
    assert list(store.leftovers(datetime.now(UTC) + timedelta(hours=1))) == []
    store.remove("runs/a")
    assert [item.key for item in store.list()] == ["champion.json", "restored"]


def test_a_store_does_all_it_needs_under_its_prefix(bucket: str, owner: Any, tmp_path: Path) -> None:
    work(bucket, owner, tmp_path / "folder")


@pytest.mark.parametrize("action", ACTIONS)
def test_without_any_one_of_its_actions_a_store_is_refused(
    action: str, bucket: str, owner: Any, tmp_path: Path
) -> None:
    owner.put_bucket_policy(Bucket=bucket, Policy=policy_for(bucket).replace(f'"{action}"', '"s3:GetBucketVersioning"'))
    with pytest.raises((InputError, ClientError), match=r"(?i)denied|may not"):
        work(bucket, owner, tmp_path / "folder")


def test_everything_else_is_refused(bucket: str, owner: Any) -> None:
    for elsewhere in ("team", "team/storekeeper", "other"):
        owner.put_object(Bucket=bucket, Key=f"{elsewhere}/theirs", Body=b"theirs")
        store = open_store(f"s3://{bucket}/{elsewhere}")
        for attempt in (
            lambda store=store: store.read_bytes("theirs"),
            lambda store=store: store.write_bytes("theirs", b"ours"),
            lambda store=store: store.remove("theirs"),
            lambda store=store: list(store.list()),
        ):
            with pytest.raises(InputError, match=r"(?i)denied|may not"):
                attempt()
        assert owner.get_object(Bucket=bucket, Key=f"{elsewhere}/theirs")["Body"].read() == b"theirs"
    client = boto3.session.Session().client("s3")
    owner.put_object(Bucket=bucket, Key=f"{PREFIX}/file", Body=b"theirs")
    for forbidden in (
        lambda: client.delete_bucket(Bucket=bucket),
        lambda: client.delete_bucket_policy(Bucket=bucket),
        lambda: client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=LIFECYCLE),
        lambda: client.put_object_acl(Bucket=bucket, Key=f"{PREFIX}/file", ACL="public-read"),
        lambda: client.list_objects_v2(Bucket=bucket, Prefix="te"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            forbidden()


def test_lifecycle_rules_are_taken_and_expire_no_object(bucket: str, owner: Any) -> None:
    owner.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=LIFECYCLE)
    (rule,) = owner.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7} and rule["Status"] == "Enabled"
    assert not [name for name in rule if re.search("Expiration|Transition", name)]
