"""What S3 answered, in words: the code, and what to do about it."""

from __future__ import annotations

from botocore.exceptions import ClientError, NoCredentialsError

from trainkit.errors import StorageError
from trainkit.storage.store import ObjectMissing, failure

_REMEDIES = {
    "AccessDenied": "Give the job's role the permission (s3:GetObject, s3:PutObject, s3:ListBucket or "
    "s3:DeleteObject; kms:Decrypt and kms:GenerateDataKey for an encrypted bucket), and check the bucket's policy",
    "NoSuchBucket": "Compare the bucket's name, letter by letter, and the account and endpoint that are asked",
    "NoSuchKey": "Compare the key, letter by letter; it may have been deleted meanwhile",
    "NoSuchUpload": "Someone aborted the upload, perhaps a lifecycle rule: write it again",
    "PreconditionFailed": "It was replaced while it was read: start again",
    "ConditionalRequestConflict": "Someone else is writing it: let one of the two go first",
    "InvalidRange": "It is shorter than that: compare its size with the writer's",
    "SlowDown": "S3 asks for fewer requests: start fewer readers at a time, or spread the keys over more prefixes",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "PermanentRedirect": "The bucket is in another region: set AWS_REGION to it",
    "AuthorizationHeaderMalformed": "The bucket is in another region: set AWS_REGION to it",
    "InvalidAccessKeyId": "Look at where the credentials come from: the key is not known here",
    "SignatureDoesNotMatch": "Look at where the credentials come from: the secret does not belong to the key",
}
_SAME = {
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "NotFound": "NoSuchKey",
    "412": "PreconditionFailed",
    "416": "InvalidRange",
    "AllAccessDisabled": "AccessDenied",
    "503": "SlowDown",
    "ServiceUnavailable": "SlowDown",
    "Throttling": "SlowDown",
    "RequestLimitExceeded": "SlowDown",
}
STALE = ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired")


class Answer(StorageError):
    """The service refused. `code` is its word for it, `retries` how often botocore asked again before."""

    code = ""
    retries = 0


class MissingAnswer(Answer, ObjectMissing):
    """The service refused since there is no such object."""


def explain(url: str, doing: str, error: Exception, *, endpoint: str | None) -> StorageError:
    """The error for one request: an Answer where the service gave one."""
    if isinstance(error, ClientError):
        return _answer(url, doing, error)
    if isinstance(error, NoCredentialsError):
        return failure(
            url, doing, "there are no AWS credentials",
            "Give the job a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )  # fmt: skip
    where = f"Look at the network between here and {endpoint}" if endpoint else "Look at the network, region and proxy"
    return failure(url, doing, f"{type(error).__name__}: {error}".rstrip("."), where)


def _answer(url: str, doing: str, error: ClientError) -> StorageError:
    said, facts = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, retries = said.get("Code", "unknown"), facts.get("RetryAttempts", 0)
    known = _SAME.get(code, code)
    remedy = _REMEDIES.get(known, "Look the code up in S3's list of error responses")
    if known in STALE:
        remedy = "Renew the credentials (for SSO: `aws sso login`)"
    message = said.get("Message", "").rstrip(".")
    tries = f" after {retries + 1} tries" if retries else ""
    kind = MissingAnswer if known == "NoSuchKey" else Answer
    answer = failure(url, doing, f"{known}{tries}: {message}" if message else f"{known}{tries}", remedy, kind=kind)
    assert isinstance(answer, Answer)
    answer.code, answer.retries = known, retries
    return answer
