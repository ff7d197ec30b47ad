"""Where a job may write."""

from pathlib import Path

from c2srt.errors import UserError


def check_lasting(folder: str | Path) -> None:
    """Raises UserError if a folder to be written lies in the copy of the working directory that Ray
    makes for a submitted job.
    """
    path = Path(folder).absolute()
    if "working_dir_files" in path.parts and "runtime_resources" in path.parts:
        raise UserError(
            f"{folder} would be written into the job's copy of the code, which Ray throws away:"
            " give work=… (or out=…) as an absolute path on shared storage"
        )
