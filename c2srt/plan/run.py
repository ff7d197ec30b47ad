"""`c2srt plan`: what an experiment will cost on a cluster, before anyone pays. Needs no data, no
weights and no GPU.
"""

import json
from pathlib import Path

from c2srt.plan.config import Config
from c2srt.plan.estimate import estimate
from c2srt.plan.hardware import calibrated
from c2srt.plan.outline import outline
from c2srt.plan.sizes import find_sizes
from c2srt.plan.tables import comparison, screen

DOES_NOT_FIT = 1


def run(config: Config) -> int:
    """Prints the plan; returns 1 where the experiment does not fit. Raises UserError on bad
    input.
    """
    if config.check:
        from c2srt.plan.check import check

        return check(config)
    sizes, source = find_sizes(config.sizes, Path(config.shards), config.images)
    if config.calibrate:
        from c2srt.plan.calibrate import calibrate

        calibrate(config, sizes)
    cluster = calibrated(config.cluster, config.calibration)
    shape = outline(config.clip, config.model)
    found = [
        estimate(config.training(count), cluster, sizes, shape)
        for count in (config.gpus or (None,))
    ]
    if config.json:
        plans = [one.numbers() for one in found]
        print(
            json.dumps(
                {
                    "cluster": vars(cluster),
                    "sizes": vars(sizes),
                    "sizes_from": source,
                    "calibration": config.calibration,
                    "plans": plans,
                },
                indent=1,
            )
        )
    else:
        print(
            "\n".join(
                comparison(found, config, source)
                if config.gpus
                else screen(found[0], config, source)
            )
        )
    return 0 if all(one.memory.fits for one in found) else DOES_NOT_FIT
