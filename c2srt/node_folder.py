"""A folder of this user's on the node's own disk, for what no other node needs: compiled kernels,
and where each rank of a training stands.

    <C2SRT_TMP, else TMPDIR, else /tmp>/c2srt-<user id>/

Home folders are often on NFS, where processes that compile at the same time crash each other, and
where 512 of them are slow. Standard library only.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
}
"""Where Triton, torch's compiler and torch's C++ extensions (DeepSpeed's) keep what they
compiled.
"""


def node_folder() -> Path:
    """The folder, made if need be. Raises OSError where it cannot be written, or another user could
    write it too: code is loaded from it.
    """
    folder = Path(os.environ.get("C2SRT_TMP") or tempfile.gettempdir()) / f"c2srt-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that only this user can write")
    return folder


def compile_on_node() -> None:
    """What this process and its children compile from now on lies in the folder, unless the user
    said where; without the folder the libraries' own places stay.
    """
    with suppress(OSError):
        folder = node_folder()
        for name, below in CACHES.items():
            os.environ.setdefault(name, str(folder / below))
