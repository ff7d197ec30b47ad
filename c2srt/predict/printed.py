"""A prediction as a row of text."""

import json

from c2srt.predict.finding import has_lone_bytes, printable
from c2srt.predict.predictor import Prediction


def as_json(prediction: Prediction, ids: dict[str, str] | None = None) -> str:
    """{"image", "labels": [{"label", "score"}…]} or {"image", "error"}; with the `ids` of labels,
    where they have some, {"label", "id", "score"}.
    """
    image = printable(prediction.image) if has_lone_bytes(prediction.image) else prediction.image
    if prediction.error is not None:
        return json.dumps({"image": image, "error": prediction.error}, ensure_ascii=False)
    known = ids or {}
    labels = [
        {"label": label, **({"id": known[label]} if known.get(label) else {})}
        | {"score": round(score, 6)}
        for label, score in prediction.labels
    ]
    return json.dumps({"image": image, "labels": labels}, ensure_ascii=False)


def as_table(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"{printable(prediction.image)}: {printable(prediction.error)}"
    names = [printable(label) for label, _ in prediction.labels]
    width = max(map(len, names), default=0)
    lines = [
        f"  {name.ljust(width)}  {score:7.4f}"
        for name, (_, score) in zip(names, prediction.labels, strict=True)
    ]
    return (
        "\n".join([printable(prediction.image), *lines])
        if lines
        else f"{printable(prediction.image)}\n  none of these reaches the threshold"
    )
