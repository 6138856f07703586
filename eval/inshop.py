"""DeepFashion's In-shop Clothes Retrieval: does a picture of a product find the shop's other pictures of it?

    python -m eval inshop --checkpoint runs/plain --catalogue data/inshop --untuned fashionclip

Source: Liu et al., "DeepFashion", CVPR 2016, section 5.2. 14,218 queries of 3,985 products against a gallery of 12,612
pictures, all categories together; metrics and ties in `eval.image_retrieval`. The query is never in the gallery, so
nothing finds itself; code that retrieves within query + gallery, or within one category, has higher numbers. Any
catalogue whose splits are `query` and `gallery` can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.image_retrieval import KS, measure_pictures
from eval.protocol import note
from eval.settings import DEFAULTS, Settings
from eval.subject import open_subject


def run_inshop(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    settings: Settings = DEFAULTS,
    *,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue: as `eval.subject.open_subject`.
        ks: ranks to score at.

    Raises:
        UserError: there is no query or no gallery, or as `measure_pictures`.
    """
    from fclip.catalogue.schema import select_split

    target = settings.target
    subject = open_subject(checkpoint, catalogue, "query", settings.catalogue_format)
    gallery = select_split(subject.whole, "gallery")
    result = measure_pictures(subject, subject.pictures, gallery, "inshop", ks, settings)
    note(result, subject, {"k": sorted({*ks})} | settings.options, target, split=False)
    return result
