r"""A small NUS-WIDE in its original layout: the real 1,000 tags and 81 concepts, CRLF, backslashes,
TABs, real JPEGs.
"""

from pathlib import Path

import numpy as np

from c2srt.relations.answers import shipped_answers
from tests.raw_images import jpeg

UNTAGGED = ("computer", "fire", "map", "swimmers", "tattoo", "whales")
NAMES = tuple(shipped_answers("relations_nuswide.jsonl.gz").related)
SEEN, CONCEPTS = NAMES[:925], NAMES[925:]
TAGS = (*SEEN[:3], *(concept for concept in CONCEPTS if concept not in UNTAGGED), *SEEN[3:])
FOLDERS = ("actor", "zoo", "close-up")
IMAGES = {"train": 24, "test": 12}


def write_nus_wide(root: Path, images: dict[str, int] = IMAGES) -> dict[str, np.ndarray]:
    """Writes the tree; returns split → uint8 [images, 925 seen (+ 81 unseen in test)] in the order
    of the image list.

    Picture n is jpeg(n), 0 … of train, then test. The first two pictures of train are one Flickr
    photo in two folders.
    """
    random, labels, first = np.random.default_rng(0), {}, 0
    write_lines(root / "NUS_WID_Tags/TagList1k.txt", TAGS)
    write_lines(root / "ConceptsList/Concepts81.txt", CONCEPTS)
    for split, count in images.items():
        name, numbers = split.capitalize(), range(first, first + count)
        files = [file_of(number) for number in numbers]
        write_lines(
            root / f"ImageList/{name}Imagelist.txt", [file.replace("/", "\\") for file in files]
        )
        for number, file in zip(numbers, files, strict=True):
            (root / "Flickr" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "Flickr" / file).write_bytes(jpeg(number))
        tags = (random.random((count, len(TAGS))) < 0.02).astype(np.uint8)
        judged = (random.random((count, len(CONCEPTS))) < 0.05).astype(np.uint8)
        write_lines(
            root / f"NUS_WID_Tags/{name}_Tags1k.dat",
            ["".join(f"{bit}\t" for bit in row) for row in tags],
            "\n",
        )
        for column, concept in enumerate(CONCEPTS):
            write_lines(
                root / f"Groundtruth/TrainTestLabels/Labels_{concept}_{name}.txt",
                map(str, judged[:, column]),
            )
        seen = tags[:, [TAGS.index(tag) for tag in SEEN]]
        labels[split] = np.hstack([seen, judged]) if split == "test" else seen
        first += count
    return labels


def file_of(number: int) -> str:
    """In folders whose names are not in the order of the list."""
    photo = 2124494179 + (number if number != 1 else 0)
    return f"{FOLDERS[number % 3]}/{number + 1:04}_{photo}.jpg"


def id_of(number: int) -> str:
    return file_of(number).removesuffix(".jpg").replace("/", "_")


def write_lines(path: Path, lines, newline: str = "\r\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{newline}" for line in lines).encode())
