"""An index of AWS CodeArtifact, as the toolkit has it: CA_REPOSITORY_ARN in the job's environment names it."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from trainkit.errors import CodeError, StorageError

_ARN = re.compile(
    r"arn:[\w-]+:codeartifact:(?P<region>[\w-]+):(?P<owner>\d+):repository/(?P<domain>[^/]+)/(?P<name>[^/]+)"
)


def index_url(arn: str) -> str:
    """Its address, with a token that is good for hours: it goes nowhere but into pip's environment."""
    match = _ARN.fullmatch(arn)
    if not match:
        raise CodeError(
            f"CA_REPOSITORY_ARN is {arn!r}: it must be arn:aws:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY"
        )
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    quick = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
    at = {"domain": match["domain"], "domainOwner": match["owner"]}
    try:
        client = boto3.session.Session(region_name=match["region"]).client("codeartifact", config=quick)
        token = client.get_authorization_token(**at)["authorizationToken"]
        endpoint = client.get_repository_endpoint(**at, repository=match["name"], format="pypi")["repositoryEndpoint"]
    except (BotoCoreError, ClientError) as error:
        raise StorageError(
            f"no token for {arn}: {error}. The job's role needs codeartifact:GetAuthorizationToken, "
            f"codeartifact:GetRepositoryEndpoint, codeartifact:ReadFromRepository and sts:GetServiceBearerToken"
        ) from None
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://aws:{quote(token, safe='')}@{parts.netloc}{parts.path.rstrip('/')}/simple/"
