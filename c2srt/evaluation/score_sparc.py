"""SPARC's scores of a split: image features in pieces by the workers, then all prompts with all of
them, some categories at a time.

    <out>/pieces-<key>/<piece>.scores.npy   float32 [images, D], a piece's features
    <out>/pieces-<key>/scores.npy           float32 [N, C]

Letters: N images, C categories, D joint width.
"""

from pathlib import Path

import numpy as np
import torch

from c2srt.backbone.clip import load_clip
from c2srt.evaluation.compound import Texts, blocks, texts_of
from c2srt.evaluation.pieces import Piece, batches_of, run_pieces, save_scores, scorer_of
from c2srt.evaluation.scorers import Subject
from c2srt.executor import Opens
from c2srt.opened import open_npy
from c2srt.progress import Progress
from c2srt.relations.untold import untold
from c2srt.shards import load_index
from c2srt.text import load_text


def score_sparc(
    pieces: list[Piece], images: int, subject: Subject, out: Path, opens: Opens
) -> np.ndarray:
    """Scores float32 [N, C] of all images, mapped from the new file `out`. Raises UserError as
    `check_enough` (sparc.py) does.
    """
    features, texts = features_of(pieces, images, opens), texts_for(subject)
    shape = (len(features), len(texts.own))
    scores = np.lib.format.open_memmap(out, "w+", np.float32, shape)
    progress = Progress("fuse", shape[1], "categories")
    for chosen, found in blocks(features, texts):
        scores[:, chosen] = found
        progress.update(found.shape[1])
    progress.close()
    return scores


def features_of(pieces: list[Piece], images: int, opens: Opens) -> torch.Tensor:
    """CLIP's global features [N, D], L2-normalised; computes what is missing."""
    missing = [piece for piece in pieces if not piece.scores.exists()]
    with opens(pieces[0].config.workers, len(pieces), images, None) as executor:
        run_pieces(score_features, missing, executor, Progress("features", images))
    again = "remove its folder and run the same command again"
    found = [open_npy(piece.scores, again, "f") for piece in pieces]
    return torch.from_numpy(np.concatenate(found))


def score_features(piece: Piece) -> int:
    """A task: the features of one piece's images; returns how many these are."""
    scorer = scorer_of(piece.subject, load_index(piece.shards))
    found = [scorer.features(batch.images).cpu().numpy() for batch in batches_of(piece, scorer)]
    save_scores(piece, found)
    return sum(map(len, found))


def texts_for(subject: Subject) -> Texts:
    """The features of all prompts, on the CPU."""
    vocabulary, clip = subject.vocabulary, load_clip(subject.clip)
    own = load_text(Path(subject.text), vocabulary, clip.hash)
    clip.to("cuda" if torch.cuda.is_available() else "cpu")
    neighbours = untold(Path(subject.relations), vocabulary, subject.neighbours)
    return texts_of(clip, own, list(vocabulary.names), neighbours)
