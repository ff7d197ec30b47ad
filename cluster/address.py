"""RAY_ADDRESS: its forms, and whether anything answers there, in seconds and without Ray.

Ray itself takes a quarter of an hour to give up an address, or ends the process. Import of this
file is light, so that the verbs can look before they read their inputs.
"""

import os
import re
import socket

from c2srt.errors import UserError

ANSWER_S = 5
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""An HTTP/2 client's first words (RFC 9113, 3.4): the preface and empty settings. Ray's server
answers with settings of its own.
"""
SETTINGS = 4
INSTEAD = (
    "give host:port of the cluster's head, such as host:6379, or unset RAY_ADDRESS for a local Ray"
)


def given_address() -> str | None:
    """RAY_ADDRESS; None where the job has a local Ray of its own."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def check_address() -> None:
    """Raises UserError if RAY_ADDRESS is set and is no address of a Ray cluster that answers."""
    address = given_address()
    if address is None:
        return
    host, port = split_address(found_on_this_host() if address == "auto" else address)
    try:
        with socket.create_connection((host, port), ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true") and not speaks_http2(
                connection
            ):
                raise UserError(
                    f"what answers at RAY_ADDRESS={address} is no Ray cluster: {INSTEAD}"
                )
    except (OSError, UnicodeError) as error:
        reason = (
            "no answer"
            if isinstance(error, TimeoutError)
            else getattr(error, "strerror", None) or error
        )
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}): start one there, or unset"
            " it for a local Ray"
        ) from error


def found_on_this_host() -> str:
    """The address of the cluster that this machine is a node of. Raises UserError if there is
    none.
    """
    from c2srt.cluster.ray_private import get_ray_address_from_environment

    try:
        return get_ray_address_from_environment("auto", None)
    except ConnectionError as error:
        raise UserError(
            "RAY_ADDRESS=auto, and no Ray cluster runs on this machine: start one, or unset it for"
            " a local Ray"
        ) from error


def split_address(address: str) -> tuple[str, int]:
    """(host, port). Raises UserError on any other form."""
    if re.match("https?://", address):
        raise UserError(
            f"RAY_ADDRESS={address} is the address of Ray's dashboard, which `ray job submit`"
            " takes: unset it, or give host:port of the cluster's head, such as host:6379"
        )
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address} is an address for Ray's client, and the job runs on the cluster"
            f" itself: submit it with `ray job submit`, or {INSTEAD}"
        )
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise UserError(f"RAY_ADDRESS={address!r} is not an address: {INSTEAD}")
    return found[1].strip("[]"), int(found[2])


def speaks_http2(connection: socket.socket) -> bool:
    """Whether the first frame of the answer is HTTP/2 settings. Raises OSError where none comes."""
    connection.sendall(HELLO)
    answer = b""
    while len(answer) < 9 and (more := connection.recv(9 - len(answer))):
        answer += more
    return len(answer) == 9 and answer[3] == SETTINGS
