"""What a person liked and disliked moves the question (Rocchio); without it the question is as it was.

    vectors = moved(vectors, liked=index.vectors(["a", "b"]), disliked=index.vectors(["c"]), mean=index.mean)

Every part of the question q becomes q + 1 · mean(liked - m) - 1/4 · mean(disliked - m), at unit length, with m the
catalogue's mean: without it a like would first of all pull words towards where pictures are.

Source: Rocchio, Relevance feedback in information retrieval, 1971; the weights' ratio as Manning, Raghavan & Schütze,
Introduction to Information Retrieval, 2008, section 9.1.1.
"""

from __future__ import annotations

import numpy as np

from fclip.queries.fusion import Floats, units

LIKED, DISLIKED = 1.0, 0.25


def moved(vectors: Floats, liked: Floats, disliked: Floats, mean: Floats) -> Floats:
    """The parts (P, D) of a question after these verdicts.

    Args:
        vectors: unit (P, D).
        liked, disliked: unit (L, D), (M, D); may be empty.
        mean: of the catalogue (D,).
    """
    if not len(liked) and not len(disliked):
        return vectors
    step = np.zeros_like(mean)
    if len(liked):
        step = step + LIKED * (liked.mean(0) - mean)
    if len(disliked):
        step = step - DISLIKED * (disliked.mean(0) - mean)
    return units(vectors + step)
