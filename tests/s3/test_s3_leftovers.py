"""What killed writers leave in a bucket where no list shows it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from s3_server import BUCKET

from ganpipe.storage.s3 import S3Store


def test_parts_of_an_upload_that_nobody_completed_are_found_and_removed(store: S3Store, client: Any) -> None:
    prefix = store.uri.removeprefix(f"s3://{BUCKET}/")
    place = {"Bucket": BUCKET, "Key": f"{prefix}/runs/a/checkpoints/kimg-000001.000/training.safetensors"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    client.upload_part(**place, UploadId=upload, PartNumber=1, Body=os.urandom(5 << 20))
    elsewhere = {"Bucket": BUCKET, "Key": f"{prefix}-of-others/file"}
    theirs = client.create_multipart_upload(**elsewhere)["UploadId"]
    store.write_bytes("runs/a/run.json", b"{}")

    now = datetime.now(UTC)
    assert list(store.leftovers(now - timedelta(hours=1))) == [], "it may be going on"
    (left,) = store.leftovers(now + timedelta(hours=1))
    assert "training.safetensors" in left.name and left.size == 5 << 20
    left.remove()
    assert list(store.leftovers(now + timedelta(hours=1))) == []
    assert [item.key for item in store.list()] == ["runs/a/run.json"]
    assert abs(next(store.list()).modified - now) < timedelta(minutes=5)
    uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}-of-others").get("Uploads", [])
    assert [entry["UploadId"] for entry in uploads] == [theirs]
    client.abort_multipart_upload(**elsewhere, UploadId=theirs)
