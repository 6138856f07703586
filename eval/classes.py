"""Attribute values as classes that a model can be asked for: one vector each, the mean of its prompts.

    vectors = class_vectors(model, {("sleeve", "long sleeve"): ["a top with long sleeves", …], …})
    scores = ClassCosines(unit_rows(images.vectors, "image"), np.stack([*vectors.values()]))
    scores[rows]                                         # (n, C): nothing of (N, C) is in memory but what is asked for

The vector of a class is the normalised mean of the normalised embeddings of its prompts (CLIP, section 3.1.4); every
protocol that asks without training uses this one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.metrics.vectors import UnitRows, unit_rows
from eval.protocol import errors_of
from eval.subject import embed_texts

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class ClassCosines:
    """Cosines of N pictures with C classes, computed when they are asked for."""

    pictures: UnitRows  # (N, D)
    classes: NDArray[np.float64]  # (C, D) unit vectors

    def __getitem__(self, rows: Any, /) -> NDArray[np.float64]:
        """(n, C) of these pictures."""
        return self.pictures.exact(rows) @ self.classes.T


def class_vectors(model: Any, said: Mapping[Key, Sequence[str]]) -> dict[Key, NDArray[np.float64]]:
    """Class → unit vector (D,).

    Args:
        model: with `name`; every text is embedded once, however many classes it stands for.
        said: class → its prompts, one or more.

    Raises:
        UserError: the model's embeddings are not finite or zero.
    """
    texts = list(dict.fromkeys(text for prompts in said.values() for text in prompts))
    with errors_of(model.name):
        vectors = unit_rows(embed_texts(model, texts), "text").exact(slice(None))
    place = {text: i for i, text in enumerate(texts)}
    means = {key: vectors[[place[text] for text in prompts]].mean(0) for key, prompts in said.items()}
    return {key: mean / np.linalg.norm(mean) for key, mean in means.items()}
