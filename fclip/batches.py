"""Catalogue → training batches, in an order that depends on the seed and the step alone.

Everything random about a sample (crop, mirror, caption) is drawn from a generator seeded by (seed, epoch, row), so
batches are the same for any number of workers, and a resumed run continues with exactly the data it would have had.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as T

from fclip.augmentation import augment, draw_view, is_augmented, is_posed, training_sizes
from fclip.captions import Captions
from fclip.config import DataConfig
from fclip.device_augmentation import as_row, shortened, stacked
from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode_pixels
from fclip.model import Preprocess, unique
from fclip.picture_cache import PictureCache, fitted
from fclip.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.features import Features

MAX_UNREADABLE_IN_A_ROW = 1000
MOST_CAPTIONS = 1 << 16  # whose tokens are kept: 40 MB at 77 tokens each


def attribute_codes(rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> np.ndarray:
    """Attributes as integers (N, G), -1 where unknown; a list of values counts as one value, whatever its order."""
    codes = np.full((len(rows), len(groups)), -1, dtype=np.int64)
    for g, group in enumerate(groups):
        values = [_key(row.get(group)) for row in rows]
        numbers = {value: i for i, value in enumerate(sorted({v for v in values if v}))}
        codes[:, g] = [numbers.get(value, -1) for value in values]
    return codes


def _key(value: Any) -> str:
    return "\x1f".join(sorted(value)) if isinstance(value, (list, tuple)) else value or ""


class TrainingPictures(torch.utils.data.Dataset):
    """Augmented pictures with a sampled caption each; index = epoch * len(self) + row.

    Pictures without any attribute have no caption and are left out (`without_caption` counts them). A picture that
    cannot be read is replaced by the next one that can, and named in the sample's `skipped`.
    """

    def __init__(
        self,
        catalogue: Dataset,
        captions: Captions,
        preprocess: Preprocess,
        data: DataConfig,
        seed: int,
        epochs: float = 1,
    ) -> None:
        kind, kinds = distinct_attributes(catalogue)
        full = [captions.render(a) for a in kinds]
        has_caption = np.array([bool(caption) for caption in full])
        self.rows = np.flatnonzero(has_caption[kind])
        self.without_caption = len(kind) - len(self.rows)
        self._kind, self._kinds = kind[self.rows], kinds  # equal attributes are held once, however many pictures
        self.bank = unique([full[k] for k in dict.fromkeys(self._kind.tolist())])
        position = {caption: i for i, caption in enumerate(self.bank)}
        self._bank_index = np.array([position.get(caption, -1) for caption in full])
        counts = np.bincount(self._bank_index[self._kind], minlength=len(self.bank))
        self.frequency = torch.tensor([count / len(self.rows) for count in counts.tolist()])
        self._codes = attribute_codes(kinds, captions.groups)
        self._images = catalogue.select_columns(["id", "image"])
        self._cache = _cache(catalogue, preprocess, data)
        self._captions, self._data, self._seed = captions, data, seed
        self._side = smallest_side(preprocess, data)
        self._on_device = data.augment_on == "device" and is_augmented(data)
        self._features: Features | None = None
        self._sizes = [
            replace(preprocess, size=size) for size in training_sizes(preprocess.size, data.first_size, epochs)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """The whole caption of every picture."""
        return [self.bank[i] for i in self._bank_index[self._kind]]

    @property
    def vary(self) -> bool:
        """Whether a picture looks different from epoch to epoch."""
        return is_augmented(self._data) or self._sizes[0] != self._sizes[-1]

    def cell(self, row: int) -> dict[str, Any]:
        """The catalogue's {"id", "image"} of a row."""
        return self._images[int(self.rows[row])]

    def with_features(self, features: Features) -> TrainingPictures:
        """The same samples with "features" in place of "pixels": what a locked tower makes of every row."""
        same = copy.copy(self)
        same._features = features
        return same

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, row = divmod(index, len(self))
        skipped: list[str] = []
        for offset in range(min(len(self), MAX_UNREADABLE_IN_A_ROW)):
            chosen = (row + offset) % len(self)
            try:
                return self._sample(chosen, epoch) | {"skipped": skipped}
            except UnreadableImageError as error:
                skipped.append(str(error))
        raise UnreadableImageError(f"no readable picture among {len(skipped)} in a row; the first: {skipped[0]}")

    def _read(self, row: int) -> Tensor:
        """The picture of a row, from the cache if it is there: uint8 (3, H, W)."""
        cached = None if self._cache is None else self._cache.get(int(self.rows[row]))
        if cached is not None:
            return cached
        cell = self.cell(row)
        try:
            whole = is_posed(self._data) and not self._on_device
            picture = decode_pixels(cell["image"], None if whole else min(self._sizes[-1].size))
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{cell['id']}: {error}") from None
        if self._cache is not None:
            return self._cache.put(int(self.rows[row]), picture)
        return torch.from_numpy(fitted(picture, self._side) if self._on_device else picture).permute(2, 0, 1)

    def _look(self, row: int, epoch: int, rng: np.random.Generator) -> dict[str, Any]:
        if self._features is not None:
            return {"features": self._features[row]}
        if not is_augmented(self._data):
            return {"pixels": self.pixels(row, epoch)}
        if not self._on_device:
            return {"pixels": augment(self._read(row), self._sizes[epoch], self._data, rng)}
        pixels, to = shortened(self._read(row), self._side), self._sizes[epoch]
        view = draw_view((pixels.shape[1], pixels.shape[2]), to, self._data, rng)
        return {"pixels": pixels, "view": as_row(view), "size": to.size}

    def pixels(self, row: int, epoch: int = -1) -> Tensor:
        """The picture of a row as it is measured, uint8 (3, H, W); by default at the last epoch's size.

        Raises:
            UnreadableImageError: it cannot be read; begins with its id.
        """
        return self._sizes[epoch](T.to_pil_image(self._read(row)))

    def _sample(self, row: int, epoch: int) -> dict[str, Any]:
        rng = np.random.default_rng([self._seed, epoch, row])
        kind = self._kind[row]
        caption, stated = self._captions.sample(self._kinds[kind], rng)
        codes = self._codes[kind]
        kept = np.array([g in stated for g in self._captions.groups])
        return {
            **self._look(row, epoch, rng),
            "caption": caption,
            "attributes": codes,
            "stated": np.where(kept, codes, -1),
            "bank_index": int(self._bank_index[kind]),
        }


def distinct_attributes(catalogue: Dataset, at_once: int = 10_000) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Which attributes each picture has (N,), and those that there are: few in memory, since garments repeat."""
    known: dict[str, int] = {}
    kinds: list[dict[str, Any]] = []
    numbers = np.empty(len(catalogue), dtype=np.int32)
    column = catalogue.select_columns(["attributes"])
    for start in range(0, len(catalogue), at_once):
        for row, attributes in enumerate(column[start : start + at_once]["attributes"], start):
            number = known.setdefault(repr(attributes), len(kinds))
            if number == len(kinds):
                kinds.append(attributes)
            numbers[row] = number
    return numbers, kinds


def _cache(catalogue: Dataset, preprocess: Preprocess, data: DataConfig) -> PictureCache | None:
    """The cache of decoded pictures."""
    if data.cache is None:
        return None
    if is_posed(data) and data.augment_on == "cpu":
        raise UserError("data.cache keeps pictures at training size, but poses (data.scale, data.turn_deg) need them "
                        "at their own; leave one of them out, or set data.augment_on=device")  # fmt: skip
    return PictureCache(data.cache, catalogue, smallest_side(preprocess, data))


def smallest_side(preprocess: Preprocess, data: DataConfig) -> int:
    """The shorter side in pixels of a picture whose smallest crop is not enlarged (but for its change of shape)."""
    return math.ceil(min(preprocess.size) / math.sqrt(data.crop))


def caption_id(caption: str) -> int:
    """A 63-bit id that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "big") >> 1


class Collate:
    """Samples → one batch of tensors.

    Captions made from attributes repeat: "tokens" (M, L) are those of the distinct ones, and "caption_index" (B,) is
    the row of each sample's own, so that each is encoded once. Each process that loads tokenises a caption once and
    keeps the tokens, up to `most` captions.
    """

    def __init__(self, tokenizer: Tokenizer, most: int = MOST_CAPTIONS) -> None:
        self._tokenizer, self._most = tokenizer, most
        self._kept: dict[str, Tensor] = {}

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        captions = [s["caption"] for s in samples]
        distinct = unique(captions)
        position = {caption: i for i, caption in enumerate(distinct)}
        seen = "features" if "features" in samples[0] else "pixels"
        batch = {seen: torch.stack([s[seen] for s in samples])} if "view" not in samples[0] else stacked(samples)
        return batch | {
            "tokens": self._tokens(distinct),
            "caption_index": torch.tensor([position[c] for c in captions]),
            "caption_ids": torch.tensor([caption_id(c) for c in captions]),
            "attributes": torch.from_numpy(np.stack([s["attributes"] for s in samples])),
            "stated": torch.from_numpy(np.stack([s["stated"] for s in samples])),
            "bank_index": torch.tensor([s["bank_index"] for s in samples]),
            "skipped": [line for s in samples for line in s["skipped"]],
        }

    def _tokens(self, captions: list[str]) -> Tensor:
        new = [caption for caption in captions if caption not in self._kept]
        if new:
            self._kept |= dict(zip(new, self._tokenizer(new).unbind(), strict=True))
        found = torch.stack([self._kept[caption] for caption in captions])
        if len(self._kept) > self._most:
            self._kept.clear()
        return found


def training_batches(
    pictures: TrainingPictures, tokenizer: Tokenizer, order: Iterable[list[int]], workers: int
) -> DataLoader:
    """A loader of the batches whose indices `order` gives."""
    return DataLoader(
        pictures,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=Collate(tokenizer),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run's dropout differs
    )
