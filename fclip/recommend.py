"""Questions to an index: words and photographs together.

recommender = Recommender.open("garments-index")
answers = recommender.ask(texts=["red summer dress"], images=["photo.jpg"], where={"gender": "Women"}, k=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fclip.errors import UserError
from fclip.images import Source
from fclip.index import Answer, Index, Where, open_index

if TYPE_CHECKING:
    from fclip.model import Model


def query_vector(
    model: Model, texts: Sequence[str] = (), images: Sequence[Source] = (), text_weight: float = 0.5
) -> np.ndarray:
    """One unit vector (D,) for any mix of texts and pictures.

    Each modality is averaged on its own and brought to unit length first, so that four photographs do not outvote one
    sentence; then the two are mixed by `text_weight` (0: only pictures, 1: only text).

    Raises:
        UserError: neither text nor picture, an empty text, an unreadable picture, or a weight outside 0..1.
    """
    from fclip.embedding import embed_pictures, embed_texts

    if not texts and not images:
        raise UserError("expected a text or a picture to search with, got neither")
    if not 0 <= text_weight <= 1:
        raise UserError(f"text weight should lie between 0 and 1, got {text_weight}")
    parts = []
    if texts:
        parts.append((text_weight if images else 1.0, embed_texts(model, texts)))
    if images:
        parts.append((1 - text_weight if texts else 1.0, embed_pictures(model, images)))
    return _unit(np.sum([weight * _unit(vectors.mean(axis=0)) for weight, vectors in parts], axis=0))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


class Recommender:
    """An index with the model that answers its questions."""

    def __init__(self, index: Index, model: Model) -> None:
        index.check_model(model)
        self.index, self.model = index, model

    @classmethod
    def open(cls, index: str | Path, checkpoint: str | Path | None = None) -> Recommender:
        """Opens an index folder and its model: the one it was built with, unless another place is named.

        Raises:
            UserError: no index, no checkpoint, or a checkpoint of another model.
        """
        from fclip.pretrained import is_model, open_model

        opened = open_index(index)
        known = opened.about["checkpoint"]
        if checkpoint is None and not (known and is_model(known)):
            found = f"which is no longer in {known}" if known else "and does not know where that lies"
            raise UserError(
                f"the index {index} was built with model {opened.about['fingerprint']}, {found}; "
                "name its folder with --checkpoint DIR"
            )
        return cls(opened, open_model(known if checkpoint is None else checkpoint, opened.groups))

    def ask(
        self,
        texts: Sequence[str] = (),
        images: Sequence[Source] = (),
        where: Where | None = None,
        k: int = 4,
        text_weight: float = 0.5,
    ) -> list[Answer]:
        """The k best products for words and pictures; see `query_vector` and `Index.search`."""
        return self.index.search(query_vector(self.model, texts, images, text_weight), k, where)
