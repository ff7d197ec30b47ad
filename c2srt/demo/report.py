"""The end of the demo: every row's figures, the tables (terminal, Markdown, JSON) and the picture of predictions."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from c2srt.demo import measure, table
from c2srt.demo.picture import draw_predictions
from c2srt.demo.rows import CLIP, FULL, NEIGHBOURS, PRIOR, Table, rows_of, trials
from c2srt.files import read_json, write_json
from c2srt.model.clip import ClipConfig, load_clip
from c2srt.relations import load_relations
from c2srt.text import load_text
from c2srt.vocabulary import load_vocabulary

FIGURES = "figures.json"


def report(road, tables: dict[str, Table]) -> None:
    """Writes <out>/table.md, table.json, predictions.png and prints the tables; `road` is c2srt.demo.run.Road."""
    config, out = road.config, Path(road.config.out)
    test = measure.load_split(road.work / "shards", road.work / "raw", "test")
    values = untrained(road, test, any(NEIGHBOURS in chosen.untrained for chosen in tables.values()))
    for row in rows_of(tables):
        values[row.name] = {trial: trained(road.trial_folder(row, *trial), test, tuple(config.topk))
                            for trial in trials(config.seeds)}
    each = [table.markdown(chosen.caption, {name: values[name] for name in chosen.names}, config.topk)
            for chosen in tables.values()]
    text = "\n\n".join([*each, table.notes(values)])
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text + "\n")
    record = {name: [{"clip": clip, "seed": seed, **figures} for (clip, seed), figures in row_values.items()]
              for name, row_values in values.items()}
    captions = {name: {"caption": chosen.caption, "rows": chosen.names} for name, chosen in tables.items()}
    write_json(out / "table.json", {"tables": captions, "rows": record, "config": asdict(config), "seconds": road.seconds})
    draw_predictions(out / "predictions.png", test, clip_zero_shot(road, 0, test)[0],
                     measure.model_scores(road.trial_folder(FULL, 0, 0) / "model", test.images))
    print(f"\n{text}\n\nTables: {out / 'table.md'}, {out / 'table.json'} · predictions on test images: {out / 'predictions.png'}")
    print(f"Every run, with its curves and settings, is in MLflow:\n"
          f"  mlflow ui --backend-store-uri sqlite:///{(road.work / 'mlflow.db').absolute()}\n  then open http://127.0.0.1:5000")


def untrained(road, test, with_neighbours: bool) -> dict[str, dict]:
    """The rows without training: the class prior once, CLIP for every CLIP seed."""
    topk = tuple(road.config.topk)
    training = measure.load_split(road.work / "shards", road.work / "raw", "train").labels
    prior = measure.prior_scores(training, len(test.ids))
    values: dict[str, dict] = {PRIOR: {(0, 0): measure.figures(prior, test, topk)}, CLIP: {}}
    if with_neighbours:
        values[NEIGHBOURS] = {}
    for clip in sorted({clip for clip, _ in trials(road.config.seeds)}):
        scores, relations = clip_zero_shot(road, clip, test)
        values[CLIP][clip, 0] = measure.figures(scores, test, topk)
        if with_neighbours:
            values[NEIGHBOURS][clip, 0] = measure.figures(measure.neighbour_scores(scores, relations), test, topk)
    return values


def clip_zero_shot(road, clip: int, test) -> tuple[np.ndarray, object]:
    """CLIP's scores [N, C] of the test images, and the `llm` neighbour table [C, 4]."""
    work = road.clip_work(clip)
    loaded = load_clip(ClipConfig(str(work / "clip/model.json"), str(work / "clip/model.safetensors")))
    vocabulary = load_vocabulary(road.work / "shards")
    scores = measure.clip_scores(loaded, load_text(work / "text", vocabulary, loaded.hash), test.images)
    return scores, load_relations(work / "relations/llm", vocabulary, 4)


def trained(folder: Path, test, topk: tuple[int, ...]) -> dict[str, float]:
    """A trained row's figures, kept beside its model so that they are computed once."""
    key, kept = f"{measure.identity(folder / 'model')} {topk} {len(test.ids)}", folder / FIGURES
    if kept.is_file() and (content := read_json(kept, "c2srt demo"))["key"] == key:
        return content["figures"]
    figures = measure.figures(measure.model_scores(folder / "model", test.images), test, topk)
    write_json(kept, {"key": key, "figures": figures})
    return figures
