"""The signature of a request to an S3 store: AWS Signature Version 4 (docs.aws.amazon.com,
"Authenticating Requests: Using the Authorization Header"), the whole body in it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from c2srt.storage.credentials import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"


def encoded(text: str) -> str:
    """As paths are written in addresses and in what is signed."""
    return quote(text, safe="/-_.~")


def query_of(arguments: Mapping[str, str]) -> str:
    """In the order in which they are signed."""
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(arguments.items())
    )


def signed(
    who: Credentials | None,
    region: str,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime | None = None,
) -> dict[str, str]:
    """The headers of a request, with those that say who asks; `path` and `query` are encoded."""
    found = {name.lower(): value for name, value in headers.items()}
    if who is None:
        return found
    time = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    digest, scope = hashlib.sha256(body).hexdigest(), f"{time[:8]}/{region}/s3/aws4_request"
    found |= {"host": host, "x-amz-date": time, "x-amz-content-sha256": digest}
    if who.token:
        found["x-amz-security-token"] = who.token
    names = ";".join(sorted(found))
    lines = "".join(f"{name}:{found[name].strip()}\n" for name in sorted(found))
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    text = f"{ALGORITHM}\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{who.secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    found["authorization"] = (
        f"{ALGORITHM} Credential={who.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return found
