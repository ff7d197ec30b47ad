"""Which code a process runs, for nodes that should all run the same. Standard library only."""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from c2srt.errors import UserError
from c2srt.version import VERSION

PACKAGE = Path(__file__).parent


@cache
def source_hash(package: Path = PACKAGE) -> str:
    """The first 16 hex digits of the SHA-256 over the package's Python files and configs as they
    lie there now, those behind the links of a clone included: a clone and a package installed from
    it agree.
    """
    digest, found = hashlib.sha256(), list[Path]()
    for folder, _, names in os.walk(package, followlinks=True):
        found += [Path(folder, name) for name in names if name.endswith((".py", ".yaml"))]
    for path in sorted(found):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def running_code() -> str:
    """This process's, to be compared and shown."""
    return f"version {VERSION} with sources {source_hash()}"


def check_alike(nodes: Sequence[str], codes: Sequence[str]) -> None:
    """Raises UserError where ranks run different code: `nodes` and `codes` are each rank's, in
    order; rank 0's is what it should be.
    """
    others = {node: code for node, code in zip(nodes, codes, strict=True) if code != codes[0]}
    if others:
        node, code = next(iter(others.items()))
        more = f" (and {len(others) - 1} more nodes other code)" if len(others) > 1 else ""
        raise UserError(
            f"node {node} runs {code}{more}, and {nodes[0]}, the first worker's, {codes[0]}: bring"
            " all nodes to the same commit, or take those out of the cluster, then run the same"
            " command to go on"
        )
