"""What the engine holds on a worker between steps, apart from report.py so that it can be told
without MLflow or DeepSpeed.
"""

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
SUMS = {"fp32": 4, "bf16": 4, "fp16": 2}
"""Of a gradient that is added up and reduced (adamw.py, engine_config.py)."""


def engine_bytes(
    precision: str, zero: int, workers: int, total: int, trainable: int
) -> dict[str, float]:
    """Bytes on one worker by part, activations and buckets left out, for parameters of `total`
    elements, `trainable` of them trained.

    Weights in the training type (sharded by ZeRO-3), sums of gradients, in bf16 of float32 (by 2),
    float32 master weights when they are not the weights themselves, and AdamW's two moments (by 1).
    Source: Rajbhandari et al., ZeRO (2020), sec. 3.
    """
    size = BYTES[precision]
    masters = 4 if precision != "fp32" or zero > 0 else 0
    shared = workers if zero >= 1 else 1
    return {
        "weights": size * total / (workers if zero == 3 else 1),
        "gradients": SUMS[precision] * trainable / (workers if zero >= 2 else 1),
        "master weights": masters * trainable / shared,
        "AdamW's moments": 8 * trainable / shared,
    }
