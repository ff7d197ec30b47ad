"""What must never be written: credentials in addresses, and the values of secret environment
variables.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)$")
SHORTEST = 8
"""Characters; a shorter value is a placeholder ("none"), and hiding it would spoil innocent text.
"""
USER = re.compile(r"(?<=://)[^/\s\"'<>]+@")
QUERY = re.compile(
    r"([?&][\w.-]*(?:token|key|secret|password|signature|credential)[\w.-]*=)[^&\s\"'#]+",
    re.IGNORECASE,
)


def redacted(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """`value` (a string, or lists and dicts of them) with each secret replaced by ***: user and
    password of an address, its query arguments such as ?token=…, and wherever it stands the value
    of a variable named …KEY, …TOKEN, …PASSWORD, …SECRET.
    """
    secrets = [
        text
        for name, text in environment.items()
        if SECRET_NAME.search(name.upper()) and len(text) >= SHORTEST
    ]
    return _redacted(value, sorted(secrets, key=len, reverse=True))


def _redacted(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            _redacted(name, secrets): _redacted(inner, secrets) for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redacted(inner, secrets) for inner in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    return QUERY.sub(rf"\1{HIDDEN}", USER.sub(f"{HIDDEN}@", value))


def has_credentials(uri: str) -> bool:
    """Whether an address holds a user or a password."""
    return bool(USER.search(uri) or QUERY.search(uri))
