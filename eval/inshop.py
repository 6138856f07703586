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

from eval.image_retrieval import Settings, measure_pictures
from eval.protocol import note, open_untuned
from eval.subject import open_subject
from fclip.files import writable


def run_inshop(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    untuned: str | None = None,
    catalogue_format: str | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue, catalogue_format: as `eval.subject.open_subject`.
        out: the JSON file; None writes nothing.
        untuned: a model to stand beside.
        settings: k, baselines, intervals.

    Raises:
        UserError: there is no query or no gallery, or as `measure_pictures`.
    """
    from fclip.catalogue.schema import select_split

    settings, target = settings or Settings(), None if out is None else writable(out)
    subject = open_subject(checkpoint, catalogue, "query", catalogue_format)
    gallery = select_split(subject.whole, "gallery")
    reference = open_untuned(untuned, subject)
    result = measure_pictures(subject, subject.pictures, gallery, "inshop", settings, reference)
    options = {"k": list(settings.ks), "untuned": untuned, "bootstrap": settings.bootstrap, "seed": settings.seed}
    options |= {"batch-size": settings.batch_size, "no-baselines": not settings.baselines, "format": catalogue_format}
    note(result, subject, options, target, split=False)
    return result
