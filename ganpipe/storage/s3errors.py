"""What goes wrong with an S3 server, in words that name the variable to mend."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from ..errors import GanpipeError, InputError, WorkFailed

ERRORS = (BotoCoreError, ClientError, Boto3Error, ResponseParserError, RetriesExceededError)
"""What boto3 raises."""

AWAY = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, RetriesExceededError)
NO_KEYS = (boto.NoCredentialsError, boto.PartialCredentialsError)

DENIED = "these keys (AWS_ACCESS_KEY_ID) may not do that ({operation}); allow it, or set {setting} to where they may"
ANOTHER_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to it"
EXPIRED = "the session of these keys is over; renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
FULL = "the server takes no more data; free some space there, or move {setting}"

WRONG_INPUT = {
    "InvalidAccessKeyId": "the server does not know these keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; set AWS_SECRET_ACCESS_KEY",
    "InvalidToken": EXPIRED,
    "ExpiredToken": EXPIRED,
    "AccessDenied": DENIED,
    "403": DENIED,
    "NoSuchBucket": "there is no such bucket; make it, or set {setting} to one that is there",
    "InvalidBucketName": "no bucket can have such a name; set {setting} to s3://bucket/prefix",
    "AuthorizationHeaderMalformed": ANOTHER_REGION,
    "PermanentRedirect": ANOTHER_REGION,
}
"""By the server's code."""

CANNOT = {"QuotaExceeded": FULL, "EntityTooLarge": FULL, "InsufficientCapacity": FULL}


def explained(error: Exception, place: str, endpoint: str, setting: str) -> GanpipeError:
    """The error as one sentence: InputError for what a setting mends, WorkFailed for what may go better later.

    `setting` is where the address of `place` stands.
    """
    if isinstance(error, ClientError):
        return _of_answer(error, place, endpoint, setting)
    if isinstance(error, NO_KEYS):
        return InputError(f"{place}: there are no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, boto.ProfileNotFound):
        return InputError(f"{place}: {error}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, boto.ParamValidationError):
        return InputError(f"{place} cannot be an S3 address; set {setting} to s3://bucket/prefix")
    if isinstance(error, ResponseParserError):
        return _no_s3(place, endpoint)
    if isinstance(error, boto.SSLError):
        return InputError(f"{place}: no TLS with {endpoint}; set AWS_CA_BUNDLE, or {endpoint_variable()}")
    if isinstance(error, AWAY):
        return WorkFailed(
            f"{place}: no S3 server answers at {endpoint}; start it, or set {endpoint_variable()} to where it is"
        )
    return WorkFailed(f"{place}: {error}")


def _of_answer(error: ClientError, place: str, endpoint: str, setting: str) -> GanpipeError:
    code, message = (error.response.get("Error", {}).get(name) or "" for name in ("Code", "Message"))
    words = {"setting": setting, "operation": error.operation_name}
    if code in WRONG_INPUT:
        return InputError(f"{place}: {WRONG_INPUT[code].format(**words)}")
    if code in CANNOT:
        return WorkFailed(f"{place}: {CANNOT[code].format(**words)}")
    if code == "RequestTimeTooSkewed":
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return WorkFailed(
            f"{place}: this machine's clock ({now} UTC) and that of {endpoint} ({_date(error)}) differ too much for "
            "signed requests; set the one that is wrong (AWS_ENDPOINT_URL names the server)"
        )
    if code.startswith("4") or code == "501":  # a status, where S3 has codes of its own
        return _no_s3(place, endpoint)
    return WorkFailed(f"{place}: {endpoint} answered {code or 'with an error'}: {message}".removesuffix(": "))


def _no_s3(place: str, endpoint: str) -> InputError:
    return InputError(f"{place}: what answers at {endpoint} does not speak S3; set {endpoint_variable()}")


def _date(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("date", "unknown"))


def endpoint_variable() -> str:
    """The variable that says where the server is."""
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def without_secrets(endpoint: str) -> str:
    """An address without the user and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", endpoint)
