"""The jobs, as Ray and DeepSpeed run them.

`python -m cluster.<job>` is what `ray job submit` and the Slurm scripts call.
"""

import sys

if sys.argv[:1] == ["-m"]:  # python -m cluster.<job>, before Ray is imported, which takes seconds
    from c2srt.early_signals import listen

    listen()
