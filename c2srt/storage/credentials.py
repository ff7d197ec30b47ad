"""Who asks: an S3 store's access key, as the tools of AWS look for it. It is never logged, shown or
written down.

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN    the environment, first
    ~/.aws/credentials and ~/.aws/config (AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE)
                                                                   section of AWS_PROFILE, default
    AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or …_FULL_URI           a role of a container
    http://169.254.169.254                                         a role of an EC2 machine
    AWS_SKIP_SIGNATURE=true                                        nobody: open buckets

Where the keys have an end they are asked for again before it. The last two kinds of roles follow
the documentation and were not seen at work.
"""

import configparser
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from c2srt.errors import UserError

EC2 = "http://169.254.169.254/latest"
ECS = "http://169.254.170.2"
EARLY_S = 300
"""Keys are renewed so long before their end."""
HOW = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE for a"
    " section of ~/.aws/credentials, or AWS_SKIP_SIGNATURE=true for an open bucket"
)


@dataclass(frozen=True, repr=False)
class Credentials:
    """`until` is a time of `time.time`, None for ever."""

    key: str
    secret: str
    token: str | None = None
    until: float | None = None


FOUND: list[Credentials] = []
"""The last ones of this process."""


def credentials(environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """Those that are valid now; None where requests are not signed. Raises UserError if there are
    none.
    """
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1"):
        return None
    if FOUND and (FOUND[0].until is None or FOUND[0].until - EARLY_S > time.time()):
        return FOUND[0]
    found = (
        of_words(lambda name: environment.get(name.upper()))
        or of_words(section(environment).get)
        or of_role(environment)
    )
    if found is None:
        raise UserError(f"there are no credentials for the store: {HOW}")
    FOUND[:] = [found]
    return found


def renewed() -> bool:
    """Whether there are other credentials than those that have just expired. Raises UserError."""
    before = FOUND.pop() if FOUND else None
    return credentials() != before


def of_words(said: Callable[[str], str | None]) -> Credentials | None:
    """What the environment, or a section of a file, has under the usual names."""
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key, secret, token = map(said, names)
    return Credentials(key.strip(), secret.strip(), token or None) if key and secret else None


def section(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What ~/.aws/config and ~/.aws/credentials say of the profile. Raises UserError if a file is
    none.
    """
    profile = environment.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    for variable, name in (
        ("AWS_CONFIG_FILE", "config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
    ):
        path = Path(environment.get(variable) or f"~/.aws/{name}").expanduser()
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeError, OSError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}): correct it, or {HOW}"
            ) from None
        for title in (f"profile {profile}", profile):
            found |= dict(parser[title]) if title in parser else {}
    return found


def setting(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """What the environment, or the profile's section, says: `region`, `endpoint_url`."""
    for variable in (
        f"AWS_{name.upper()}_S3",
        f"AWS_{name.upper()}",
        f"AWS_DEFAULT_{name.upper()}",
    ):
        if environment.get(variable):
            return environment[variable]
    return section(environment).get(name) or None


def of_role(environment: Mapping[str, str]) -> Credentials | None:
    """The temporary keys of a container's or a machine's role; None without one."""
    relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    full = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    try:
        if relative or full:
            file = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
            token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") or (
                Path(file).read_text(encoding="utf-8").strip() if file else ""
            )
            address = f"{ECS}{relative}" if relative else full or ""
            return of_answer(asked(address, {"Authorization": token} if token else {}))
        if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return None
        session = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        token = asked(f"{EC2}/api/token", session, "PUT")
        headers, roles = {"X-aws-ec2-metadata-token": token}, "meta-data/iam/security-credentials/"
        role = asked(f"{EC2}/{roles}", headers).split()[0]
        return of_answer(asked(f"{EC2}/{roles}{role}", headers))
    except (OSError, ValueError, KeyError, IndexError):
        return None


def asked(address: str, headers: dict[str, str], method: str = "GET") -> str:
    """A machine's own service, which no proxy knows, answers at once or not at all."""
    opener = build_opener(ProxyHandler({}))
    with opener.open(Request(address, headers=headers, method=method), timeout=2) as answer:
        return answer.read(1 << 16).decode()


def of_answer(text: str) -> Credentials:
    said = json.loads(text)
    until = datetime.fromisoformat(said["Expiration"].replace("Z", "+00:00")).timestamp()
    return Credentials(said["AccessKeyId"], said["SecretAccessKey"], said["Token"], until)
