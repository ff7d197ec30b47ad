"""The layouts on disk that `data.layout` can name, each with the module that reads it.

A new data set needs: a reader, a module of this package with `find(data)` that gives a `Reader`
(sharding/readers.py; nuswide.py is one, and standard_set.py leaves little to be said: coco.py);
its line here; and configs/datasets/<name>.yaml.
"""

MODULES = {
    "openimages": "c2srt.sharding.openimages",
    "nuswide": "c2srt.sharding.nuswide",
    "csv": "c2srt.sharding.csv_layout",
    "coco": "c2srt.sharding.coco",
    "voc": "c2srt.sharding.voc",
    "openimages_v7": "c2srt.sharding.openimages_v7",
    "vg256": "c2srt.sharding.visual_genome",
}
