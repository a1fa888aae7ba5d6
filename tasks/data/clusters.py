"""Groups the answers to one question by what they say: how many agree is the confidence, who disagrees the rationale.

Answers are alike when they are equal after normalising, or, with an embedding model, when their texts point the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.confidence import is_correct, normalise
from tasks.runtime.models import PICKLES
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

KeepRule = Literal["gold", "majority", "gold_else_majority"]
Embed = Callable[[str, Sequence[str]], NDArray[np.float64]]
"""Question and N texts to unit vectors [N, D]."""


@dataclass(frozen=True)
class Cluster:
    """Answers that say the same."""

    members: list[int]
    """Numbers of the samples, ascending."""
    answer: str
    """The commonest wording, the first among equals."""

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.members)


def by_match(answers: Sequence[str]) -> list[Cluster]:
    """Group answers [N] that are equal after normalising; largest first, the earlier among equals. Sizes sum to N."""
    groups: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        groups.setdefault(normalise(answer), []).append(number)
    return _ordered(list(groups.values()), answers)


def by_similarity(vectors_ND: NDArray[np.float64], answers: Sequence[str], threshold: float) -> list[Cluster]:
    """Group answers greedily: the first one left takes in all whose cosine with it exceeds `threshold`, and so on.

    Vectors have length 1. Order and sizes as in `by_match`.
    """
    groups, left = [], np.ones(len(answers), dtype=bool)
    for number in range(len(answers)):
        if left[number]:
            alike = left & (vectors_ND @ vectors_ND[number] > threshold)
            alike[number] = True
            left &= ~alike
            groups.append(np.flatnonzero(alike).tolist())
    return _ordered(groups, answers)


def _ordered(groups: list[list[int]], answers: Sequence[str]) -> list[Cluster]:
    named = [Cluster(members, Counter(answers[n] for n in members).most_common(1)[0][0]) for members in groups]
    return sorted(named, key=lambda cluster: (-cluster.size, cluster.members[0]))


def load_embedder(folder: Path) -> Embed:
    """Return the embedding of a sentence-transformers model in `folder`, which is told the question as its instruction.

    Raises UserError when the package or the folder is missing, and for pickled weights.
    """
    if not folder.is_dir():
        raise UserError(f"confidence-data.embedder: {folder}: no such model folder")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("confidence-data.embedder: needs `pip install sentence-transformers`, or set embedder: null") from None
    _refuse_pickles(folder)
    safe = {"use_safetensors": True, "trust_remote_code": False}
    model: SentenceTransformer = SentenceTransformer(
        str(folder), model_kwargs=safe, trust_remote_code=False, local_files_only=True
    )

    def embed(question: str, texts: Sequence[str]) -> NDArray[np.float64]:
        told = f'Represent the paragraph for the question "{question}":'
        return np.asarray(model.encode(list(texts), prompt=told, normalize_embeddings=True), dtype=np.float64)

    return embed


def _refuse_pickles(folder: Path) -> None:
    """Raise UserError for a module of a model, each in a folder of its own, whose weights are pickled and nothing else."""
    for place in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
        endings = {path.suffix for path in place.iterdir()}
        if endings & set(PICKLES) and ".safetensors" not in endings:
            raise UserError(f"confidence-data.embedder: {place}: pickled weights can run code when opened and are refused")


def choose(clusters: Sequence[Cluster], golds: Sequence[str], rule: KeepRule) -> Cluster | None:
    """Return the cluster that is learned: the largest that holds a right answer, the largest of all, or the latter failing
    the former; None where the rule finds none."""
    right = next((cluster for cluster in clusters if is_gold(cluster, golds)), None)
    if rule == "gold" or (rule == "gold_else_majority" and right):
        return right
    return clusters[0] if clusters else None


def is_gold(cluster: Cluster, golds: Sequence[str]) -> bool:
    """Say whether a cluster's answer is one of the right ones."""
    return any(is_correct(cluster.answer, gold) for gold in golds)
