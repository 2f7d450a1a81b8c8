"""What the tests of S3 put into a store and look at there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from s3_server import BUCKET


def listed(client: Any, uri: str) -> dict[str, int]:
    """Sizes of all objects of a store by key, as plain boto3 sees them."""
    prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"].removeprefix(prefix): item["Size"] for page in pages for item in page.get("Contents", [])}


def filled(folder: Path, **sizes: int) -> Path:
    """A folder of files with random bytes."""
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        (folder / f"{name}.bin").write_bytes(os.urandom(size))
    return folder
