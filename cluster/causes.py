"""Why an attempt of a training ended, in a line: what Ray's exceptions say of its workers."""

from ray.exceptions import RayActorError
from ray.train import ControllerError

from c2srt.cluster.ray_private import train_timeouts
from c2srt.errors import AGAIN, LoaderFailed

NO_PLACE, NO_SIGN = train_timeouts()
SHOWN_RANKS, SHOWN_CHARACTERS = 3, 300


def cause_in_ranks(failures: dict[int, Exception]) -> str:
    """One line: the ranks that failed and why. Those whose process or loader is gone or silent come
    first: others fail because of them.
    """
    order = sorted(failures, key=lambda rank: (not is_root(failures[rank]), rank))
    reasons = [f"rank {rank}: {reason(failures[rank])}" for rank in order[:SHOWN_RANKS]]
    more = len(order) - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")


def is_root(error: Exception) -> bool:
    return dead_actor(error) is not None or silent(error) or isinstance(error, LoaderFailed)


def reason(error: Exception) -> str:
    """What happened to one rank."""
    if silent(error):
        return "it did not answer within faults.collective_timeout: stopped, or cut off"
    if isinstance(error, LoaderFailed):
        return shortened(str(error).removesuffix(AGAIN))
    actor = dead_actor(error)
    return (
        death(str(actor))
        if actor
        else shortened(f"{type(error).__name__}: {last_line(str(error))}")
    )


def death(text: str) -> str:
    """Why an actor is dead, from Ray's message."""
    if "unavailable" in text:
        return "its process or node cannot be reached"
    if "worker process has died" not in text and "node" in text:
        return shortened(f"its node is gone ({last_line(text)})")
    detail = (text.partition("Worker exit detail: ")[2] or last_line(text)).partition(
        " Some common causes"
    )[0]
    outside = (
        "killed from outside, out of memory, or crashed" if "End of file" in detail else detail
    )
    return shortened(f"its process died ({outside})")


def silent(error: Exception) -> bool:
    """Whether Ray Train gave up waiting for a rank's sign of life."""
    return isinstance(error, NO_SIGN)


def dead_actor(error: Exception) -> RayActorError | None:
    """Ray's report of a worker that no longer exists, if the error is one."""
    inner = getattr(error, "health_check_failure", error)
    return inner if isinstance(inner, RayActorError) else None


def cause_outside(error: Exception) -> str:
    """What happened to Ray Train itself."""
    inner = error.controller_failure if isinstance(error, ControllerError) else error
    if isinstance(inner, RayActorError):
        return f"Ray Train's controller: {death(str(inner))}"
    return shortened(f"{type(inner).__name__}: {last_line(str(inner))}")


def last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["unknown"])[-1]


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
