"""DeepFashion's Consumer-to-shop Clothes Retrieval: does a customer's photograph find the product in the shop?

    python -m eval consumer2shop --checkpoint runs/plain --catalogue data/consumer2shop --untuned fashionclip

Source: Liu et al., "DeepFashion", CVPR 2016, section 5.3; metrics and ties in `eval.image_retrieval`. The partition
lists *pairs*: code that takes rows for queries asks a photograph once for each of its pairs, and code that takes the
second column for the gallery holds a shop's picture many times. Here every photograph asks once, and every picture is
in the gallery once (`fclip.catalogue.deepfashion_consumer2shop`). The gallery is every shop picture of val *and* test,
as published, also for `--split val`; a gallery of the tested split, or of one category, is easier. Any catalogue whose
column `view` says `consumer` and `shop` can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.image_retrieval import KS, measure_pictures
from eval.protocol import note
from eval.settings import DEFAULTS, Settings
from eval.subject import open_subject
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

GALLERY_SPLITS = ("val", "test")


def run_consumer2shop(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str = "test",
    settings: Settings = DEFAULTS,
    *,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue: as `eval.subject.open_subject`.
        split: whose photographs ask: test or val.
        ks: ranks to score at.

    Raises:
        UserError: the catalogue does not say who took a picture, the split has no photographs, or as
            `measure_pictures`.
    """
    target = settings.target
    if split not in GALLERY_SPLITS:
        raise UserError(f"expected --split test or val, whose pictures are the gallery, got {split!r}")
    subject = open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    queries, gallery = consumers(subject.pictures, split), shops(subject.whole)
    result = measure_pictures(subject, queries, gallery, "consumer2shop", ks, settings)
    note(result, subject, {"k": sorted({*ks})} | settings.options, target)
    return result


def consumers(pictures: Dataset, split: str) -> Dataset:
    """The customers' photographs of a split.

    Raises:
        UserError: there are none.
    """
    return _seen(pictures, "consumer", f"split {split!r}", range(len(pictures)))


def shops(whole: Dataset) -> Dataset:
    """Every shop picture of val and test.

    Raises:
        UserError: there are none.
    """
    rows = [row for row, split in enumerate(whole["split"][:]) if split in GALLERY_SPLITS]
    return _seen(whole, "shop", "val and test", rows)


def _seen(pictures: Dataset, view: str, where: str, rows: Sequence[int]) -> Dataset:
    if "view" not in pictures.features:
        raise UserError(
            "the catalogue has no column `view` that says consumer or shop; open DeepFashion's Consumer-to-shop "
            "benchmark, --format deepfashion-consumer2shop"
        )
    views = pictures["view"][:]
    if not (chosen := [row for row in rows if views[row] == view]):
        raise UserError(f"no {view} picture in {where}; expected the column `view` to say consumer or shop")
    return pictures.select(chosen)
