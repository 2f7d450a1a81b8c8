"""Stores in the real server's bucket."""

from __future__ import annotations

from typing import Any

import pytest

from ganpipe.storage import open_store
from ganpipe.storage.s3 import S3Store


@pytest.fixture
def store(s3_uri: str) -> S3Store:
    store = open_store(s3_uri)
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def client(s3_uri: str) -> Any:
    """Plain boto3, with nothing but its own variables."""
    import boto3

    return boto3.client("s3")
