"""`c2srt audit`: the job of sharding/audit_job.py on this machine, or on a Ray cluster."""

from c2srt.cluster.address import check_address
from c2srt.cluster.executor import open_executor
from c2srt.cluster.paths import check_lasting
from c2srt.sharding.audit_job import audit
from c2srt.sharding.config import AuditConfig as Config


def run(config: Config) -> int:
    """Returns 0 if nothing disagrees, else 1. Raises UserError on bad input or a full disk."""
    check_lasting(config.out)
    check_address()
    return audit(config, open_executor)
