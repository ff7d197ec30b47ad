"""The relation graph of the IST module as a neighbour table: which seen categories inform which category.

Kinds: `llm` reads relations mined from a large language model (paper B.3), `similarity` takes the most similar text
features, `random` and `none` are the controls that show what a graph is worth.

Rules that hold for every kind:
- only seen categories are neighbours (unseen ones receive, they never send); a category is never its own neighbour
  (self-loops are the model's switch); no neighbour occurs twice in a row;
- categories are told apart by MID: one that shares its display name with another may have it as a neighbour;
- best first; a category with fewer than K neighbours has −1 in the remaining places.

On disk: `neighbours.npy` int32 [C, K] of vocabulary columns, and `relations.json`, its provenance.
Letters: C categories, S seen, K neighbours, D width.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from c2srt.errors import UserError
from c2srt.files import read_json, remove_leftovers, sha256_of_file, whole_file, write_json
from c2srt.progress import Progress
from c2srt.text import load_text, text_identity
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary

TABLE, PROVENANCE = "neighbours.npy", "relations.json"
KINDS = ("llm", "similarity", "random", "none")
ABSENT = -1
STRENGTH = {"high": 3, "medium": 2, "low": 1}
SHIPPED = ("relations_openimages_v4.jsonl.gz", "relations_nuswide.jsonl.gz")
SAME_TO = 1_000_000  # cosines that agree to six decimals are ties: duplicate names must not be ordered by rounding noise


@dataclass
class Config:
    """Keys of `c2srt relations`, explained in configs/relations.yaml."""

    graph: str = "llm"
    neighbours: int = 8
    relations_file: str | None = None
    root: str | None = None
    shards: str = ""
    text: str = ""
    out: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.graph not in KINDS:
            raise UserError(f"graph={self.graph} is not a kind of relation graph: choose one of {', '.join(KINDS)}")
        if self.neighbours < 1:
            raise UserError(f"neighbours={self.neighbours} must be at least 1 (graph=none is the graph without any)")


def run(config: Config) -> None:
    """Writes the neighbour table of `config.graph`, or says that it is up to date. Raises UserError on bad input."""
    vocabulary, out = load_vocabulary(Path(config.shards)), Path(config.out)
    answers = find_answers(config, vocabulary) if config.graph == "llm" else None
    made_from = identity(config, vocabulary, answers)
    if is_current(out, made_from):
        print(f"{out / TABLE} is up to date ({config.graph})")
        return
    remove_leftovers(out)
    table, notes = build(config, vocabulary, answers)
    save(out, table, made_from, notes)
    print(summary(table, out, config.graph))


def identity(config: Config, vocabulary: Vocabulary, answers: "Answers | None") -> dict:
    """What a table was made from: two runs with equal identities give equal tables."""
    made_from = {"kind": config.graph, "vocabulary": vocabulary.hash, "neighbours": config.neighbours}
    if config.graph == "random":
        made_from["seed"] = config.seed
    if config.graph == "similarity":
        made_from["text"] = text_identity(Path(config.text), vocabulary)
    if answers is not None:
        made_from["answers"] = answers.hash
    return made_from


def is_current(out: Path, made_from: dict) -> bool:
    """True when `out` holds a whole table with this identity."""
    try:
        content = json.loads((out / PROVENANCE).read_text())
        return content["made_from"] == made_from and content["table_sha256"] == sha256_of_file(out / TABLE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def build(config: Config, vocabulary: Vocabulary, answers: "Answers | None") -> tuple[np.ndarray, dict]:
    """The table [C, K] of one kind, and what its provenance should say besides the identity."""
    if answers is not None:
        table, counts = llm_neighbours(answers, vocabulary, config.neighbours)
        print_dropped(counts, answers.source)
        return table, {"source": answers.source, "counts": counts, **answers.provenance}
    if config.graph == "similarity":
        return text_neighbours(load_text(Path(config.text), vocabulary), vocabulary.seen_count, config.neighbours), {}
    if config.graph == "random":
        return random_neighbours(vocabulary, config.neighbours, config.seed), {}
    return np.full((len(vocabulary), config.neighbours), ABSENT, np.int32), {}


def save(out: Path, table: np.ndarray, made_from: dict, notes: dict) -> None:
    """Writes the table, then its provenance with the table's SHA-256, so that a mixed pair is noticed."""
    with whole_file(out / TABLE) as temporary, temporary.open("wb") as file:
        np.save(file, table)
    degree = (table != ABSENT).sum(1)
    write_json(out / PROVENANCE, {
        "made_from": made_from, "table_sha256": sha256_of_file(out / TABLE),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "degree": {"mean": float(degree.mean()), "min": int(degree.min()), "max": int(degree.max())},
        "without_neighbours": int((degree == 0).sum()), **notes})


def summary(table: np.ndarray, out: Path, kind: str) -> str:
    degree = (table != ABSENT).sum(1)
    return (f"{out / TABLE}: {kind}, {len(table):,} categories, "
            f"{degree.mean():.1f} neighbours each ({degree.min()}–{degree.max()}), {(degree == 0).sum():,} without any")


# --- llm: mined answers -> table

@dataclass(frozen=True)
class Answers:
    """Mined relations. `related`: category key -> [(seen category's key, strength 1–3)], in the file's order.

    A key is the MID, or the name where the data set has no MIDs (NUS-WIDE). `provenance` is what the file's first line
    {"provenance": {…}} says of the model, prompt and queries, if there is one. `hash` identifies the content.
    """

    source: str
    related: dict[str, list[tuple[str, int]]]
    provenance: dict
    hash: str


def find_answers(config: Config, vocabulary: Vocabulary) -> Answers:
    """`relations_file`, else `<data.root>/relations.jsonl`, else the shipped file of this vocabulary. Raises UserError."""
    if config.relations_file:
        return read_answers(Path(config.relations_file))
    if config.root and (own := Path(config.root) / "relations.jsonl").is_file():
        return read_answers(own)
    for name in SHIPPED:
        answers = shipped_answers(name)
        if 2 * sum(mid in answers.related for mid in vocabulary.mids) >= len(vocabulary) > 0:
            return answers
    raise UserError("no shipped relations fit this vocabulary (they know less than half of its categories): give mined ones with "
                    "relations_file=<file.jsonl>, or choose graph=similarity")


def shipped_answers(name: str) -> Answers:
    """Relations that ship with the project: mined from a large language model, one query a category."""
    return parse_answers(gzip.decompress(files("c2srt").joinpath("data_files", name).read_bytes()), f"shipped {name}")


def read_answers(path: Path) -> Answers:
    """Reads a relations JSONL, gzip-compressed if its name ends in .gz. Raises UserError naming the line that is wrong."""
    try:
        content = path.read_bytes()
        return parse_answers(gzip.decompress(content) if path.suffix == ".gz" else content, str(path))
    except (OSError, EOFError) as error:
        raise UserError(f"the relations file {path} cannot be read: {error}") from error


def parse_answers(content: bytes, source: str) -> Answers:
    """Lines {"mid", "name", "split", "related": [{"mid", "name", "type", "strength"}…]} -> Answers; blank lines are skipped."""
    related, provenance = {}, {}
    for number, row in json_lines(content, source):
        try:
            if "provenance" in row:
                provenance.update(row["provenance"])
                continue
            key = key_of(row)
            if key in related:
                raise UserError(f"{source}, line {number}: category {key} was answered before; keep one line a category")
            related[key] = [(key_of(answer), STRENGTH[answer["strength"].lower()]) for answer in row["related"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{source}, line {number}: not a relations line (needs mid or name, and related with mid or name and "
                            f"a strength of high, medium or low): {type(error).__name__} {error}") from error
    return Answers(source, related, provenance, hashlib.sha256(content).hexdigest()[:16])


def json_lines(content: bytes, source: str) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not blank. Raises UserError."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(f"{source}, line {number}: not valid JSON ({error})") from error


def key_of(row: dict) -> str:
    return row["mid"] if "mid" in row else row["name"]


def llm_neighbours(answers: Answers, vocabulary: Vocabulary, k: int) -> tuple[np.ndarray, dict[str, int]]:
    """Table [C, k]: strongest relations first, equal strengths in the file's order; and the counts of what was dropped."""
    table, counts = np.full((len(vocabulary), k), ABSENT, np.int32), Counter()
    counts["answers for categories outside the vocabulary"] = sum(key not in vocabulary.index for key in answers.related)
    for row, mid in enumerate(vocabulary.mids):
        counts["categories without an answer"] += mid not in answers.related
        ranked = sorted(answers.related.get(mid, ()), key=lambda answer: -answer[1])
        kept = usable(mid, [key for key, _ in ranked], vocabulary, counts)[:k]
        table[row, : len(kept)] = kept
    return table, dict(counts)


def usable(mid: str, related: list[str], vocabulary: Vocabulary, counts: Counter) -> list[int]:
    """Columns of the related categories that may be neighbours of `mid`, in order; counts what is dropped and why."""
    columns: dict[int, None] = {}
    for key in related:
        column = vocabulary.index.get(key)
        if column is None:
            counts["related categories outside the vocabulary"] += 1
        elif key == mid:
            counts["categories related to themselves"] += 1
        elif column >= vocabulary.seen_count:
            counts["related categories that are unseen"] += 1
        elif column in columns:
            counts["related categories named twice"] += 1
        else:
            columns[column] = None
    return list(columns)


def print_dropped(counts: dict[str, int], source: str) -> None:
    print(f"relations from {source}")
    for what, count in counts.items():
        if count:
            print(f"  dropped, {what}: {count:,}" if not what.endswith("answer") else f"  {what}: {count:,}")


# --- random and similarity

def random_neighbours(vocabulary: Vocabulary, k: int, seed: int) -> np.ndarray:
    """Table [C, k]: k seen categories drawn without replacement, a pure function of (seed, MID, S, own column).

    Each category has its own generator, so adding or reordering unseen categories changes no other row.
    """
    seen = vocabulary.seen_count
    table = np.full((len(vocabulary), k), ABSENT, np.int32)
    for row, mid in enumerate(vocabulary.mids):
        digest = hashlib.sha256(f"{seed} {mid}".encode()).digest()
        drawn = np.random.default_rng(list(digest)).choice(seen, min(k + 1, seen), replace=False)
        drawn = drawn[drawn != row][:k]
        table[row, : len(drawn)] = drawn
    return table


def text_neighbours(features: Tensor, seen_count: int, k: int) -> np.ndarray:
    """Table [C, k] from text features [C, D] (L2-normalised): the k most similar other seen categories."""
    progress = Progress("similarity", len(features), "categories")
    table = np.full((len(features), k), ABSENT, np.int32)
    step = rows_per_chunk(seen_count)
    for start in range(0, len(features), step):
        rows = torch.arange(start, min(start + step, len(features)))
        own = torch.arange(seen_count) == rows[:, None]
        best = most_similar(features[rows], features[:seen_count], k, own)
        table[start : start + len(rows), : best.shape[1]] = best.numpy()
        progress.update(len(rows))
    progress.close()
    return table


def rows_per_chunk(columns: int, budget: int = 128 << 20) -> int:
    """Rows of a similarity chunk so that cosines and integer keys (about 24 bytes a pair) stay within `budget` bytes."""
    return max(1, budget // (24 * max(columns, 1)))


def most_similar(queries: Tensor, seen: Tensor, k: int, excluded: Tensor) -> Tensor:
    """Columns [n, min(k, S)] of the most similar `seen` [S, D] for `queries` [n, D], −1 where all others are excluded [n, S].

    Ties (cosines that agree to six decimals) go to the lower column. Cosine and column are packed in one integer, so
    that top-k has no ties left to break.
    """
    cosine = (queries.float() @ seen.float().T).mul_(SAME_TO).round_().long() + 2 * SAME_TO
    keys = (cosine * len(seen) + (len(seen) - 1 - torch.arange(len(seen)))).masked_fill_(excluded, -1)
    best = keys.topk(min(k, len(seen)), dim=1).values
    return torch.where(best < 0, ABSENT, len(seen) - 1 - best % max(len(seen), 1))


def similar_neighbours(new: Tensor, seen: Tensor, k: int, new_names: list[str] | None = None,
                       seen_names: list[str] | None = None) -> Tensor:
    """Neighbours of words outside the vocabulary: [n, k] int64 columns of seen categories, best first, −1 absent.

    `new` [n, D] and `seen` [S, D] are L2-normalised text features. With both lists of names a word is no neighbour of
    a category of the same name (letter case aside): that would be a self-loop, which is the model's switch.
    """
    same = torch.zeros(len(new), len(seen), dtype=torch.bool)
    if new_names is not None and seen_names is not None:
        folded = [name.casefold() for name in seen_names]
        for row, name in enumerate(new_names):
            same[row] = torch.tensor([other == name.casefold() for other in folded], dtype=torch.bool)
    step = rows_per_chunk(len(seen))
    chunks = [most_similar(new[start : start + step].cpu(), seen.cpu(), k, same[start : start + step])
              for start in range(0, len(new), step)]
    best = torch.cat(chunks) if chunks else torch.empty(0, min(k, len(seen)), dtype=torch.long)
    return torch.nn.functional.pad(best, (0, k - best.shape[1]), value=ABSENT)


# --- reading

def load_relations(folder: Path, vocabulary: Vocabulary, k: int) -> Tensor:
    """The first k neighbours of every category: int64 [C, k], −1 absent.

    Raises UserError if the graph is absent, of another vocabulary, damaged, or holds fewer than k neighbours.
    """
    content = read_json(folder / PROVENANCE, "c2srt relations")
    try:
        made_from, sha256 = content["made_from"], content["table_sha256"]
        again = f"c2srt relations graph={made_from['kind']} neighbours={max(k, made_from['neighbours'])}"
        check_same_vocabulary(vocabulary, made_from["vocabulary"], f"the relation graph {folder}", again)
    except (KeyError, TypeError):
        raise UserError(f"{folder / PROVENANCE} does not describe a relation graph: make it with `c2srt relations`") from None
    if k > made_from["neighbours"]:
        raise UserError(f"{folder} keeps {made_from['neighbours']} neighbours a category, but {k} are asked for: "
                        f"rebuild it with `{again}`")
    if not (folder / TABLE).is_file() or sha256_of_file(folder / TABLE) != sha256:
        raise UserError(f"{folder / TABLE} is absent or not what {PROVENANCE} describes: rebuild it with `{again}`")
    return torch.from_numpy(np.load(folder / TABLE).astype(np.int64))[:, :k]
