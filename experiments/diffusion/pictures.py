"""What a step learns from: pixels, prompts and how much each picture counts; a matter of seed and step alone.

    batches = catalogue_batches(config, training, captions)
    for batch in batches.from_step(120): batch["pixels"], batch["prompts"], batch["weights"]

"pixels" (B, 3, S, S) in -1 … 1; "weights" (B,): 1 for what is to be learned, the prior's weight for its class. The loss
is the weighted sum divided by `batch_size`, the number of pictures to be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.diffusion.config import Dreambooth, Finetune
from fclip.batches import MAX_UNREADABLE_IN_A_ROW, distinct_attributes
from fclip.captions import Captions
from fclip.errors import UserError
from fclip.files import expand
from fclip.images import Source, UnreadableImageError, decode
from fclip.model import Preprocess
from fclip.order import BatchOrder

if TYPE_CHECKING:
    from datasets import Dataset

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FIT = {"pad": "longest", "crop": "shortest"}
Batch = dict[str, Any]


@dataclass(frozen=True)
class Batches:
    """The batches of a run: `from_step` gives those that are left."""

    steps: int
    prompts: list[str]  # some, for sample grids
    from_step: Callable[[int], Iterable[Batch]]


class Pictures(torch.utils.data.Dataset):
    """Pictures of one size, in -1 … 1."""

    def __init__(self, size_px: int, fit: str, flip: float) -> None:
        self._flip = flip
        self._preprocess = Preprocess(size=(size_px, size_px), resize_mode=FIT[fit], fill_color=255)

    def pixels(self, source: Source, rng: np.random.Generator) -> Tensor:
        """(3, S, S), maybe mirrored.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        pixels = self._preprocess(decode(source)).float() / 127.5 - 1
        return pixels.flip(-1) if rng.random() < self._flip else pixels


class CataloguePictures(Pictures):
    """A catalogue's pictures with a caption each, sampled anew in every epoch; index = epoch * len(self) + row.

    Pictures without a caption are left out. `learned`: whether captions, mirroring and dropout vary.
    """

    def __init__(self, catalogue: Dataset, captions: Captions, config: Finetune, learned: bool = True) -> None:
        kind, kinds = distinct_attributes(catalogue)
        known = np.array([bool(captions.render(attributes)) for attributes in kinds])
        rows = np.flatnonzero(known[kind])
        super().__init__(config.size_px, config.data.fit, config.data.flip if learned else 0)
        self._images, self._captions, self._rows = catalogue.select_columns(["image"]), captions, rows
        self._kind, self._kinds = kind[rows], kinds
        self._dropout = config.caption_dropout if learned else 0.0
        self._learned, self._seed = learned, config.seed

    def __len__(self) -> int:
        return len(self._rows)

    def caption(self, row: int) -> str:
        """The whole caption of a row."""
        return self._captions.render(self._kinds[self._kind[row]])

    def __getitem__(self, index: int) -> Batch:
        """The sample, or that of the next picture that can be read.

        Raises:
            UnreadableImageError: none of very many can be read.
        """
        epoch, row = divmod(index, len(self))
        problem = ""
        for offset in range(min(len(self), MAX_UNREADABLE_IN_A_ROW)):
            try:
                return self._sample((row + offset) % len(self), epoch)
            except UnreadableImageError as error:
                problem = problem or str(error)
        raise UnreadableImageError(f"no readable picture among many in a row; the first: {problem}")

    def _sample(self, row: int, epoch: int) -> Batch:
        rng = np.random.default_rng([self._seed, epoch, row])
        caption = self._captions.sample(self._kinds[self._kind[row]], rng)[0] if self._learned else self.caption(row)
        caption = "" if rng.random() < self._dropout else caption
        pixels = self.pixels(self._images[int(self._rows[row])]["image"], rng)
        return {"pixels": pixels, "prompt": caption, "weight": 1.0}


class ConceptPictures(Pictures):
    """The pictures of the one thing, then those of its class; index = (step * world + rank) * B + place in the batch.

    The first half of a batch shows the thing, the second its class, each drawn from its folder at random.
    """

    def __init__(self, instance: Sequence[Path], of_class: Sequence[Path], config: Dreambooth) -> None:
        super().__init__(config.size_px, "crop", config.flip)
        self._instance, self._class, self._config = instance, of_class, config
        self.batch = config.batch_size * (2 if of_class else 1)

    def __getitem__(self, index: int) -> Batch:
        config, rng = self._config, np.random.default_rng([self._config.seed, index])
        of_instance = index % self.batch < config.batch_size
        files = self._instance if of_instance else self._class
        pixels = self.pixels(files[int(rng.integers(len(files)))], rng)
        if of_instance:
            return {"pixels": pixels, "prompt": config.prompt, "weight": 1.0}
        return {"pixels": pixels, "prompt": config.class_prompt, "weight": config.prior_weight}


def catalogue_batches(config: Finetune, pictures: CataloguePictures, rank: int = 0, world: int = 1) -> Batches:
    """The batches of a fine-tuning.

    Raises:
        UserError: fewer pictures than one batch.
    """

    def order(start: int) -> BatchOrder:
        return BatchOrder(len(pictures), config.batch_size, config.epochs, config.seed, rank, world, start)

    if not order(0).steps:
        raise UserError(
            f"expected at least {config.batch_size * world} captioned pictures to train on, got {len(pictures)}; "
            "set batch_size lower or name more pictures"
        )
    spread = np.linspace(0, len(pictures) - 1, min(4, len(pictures))).astype(int)
    prompts = list(dict.fromkeys(pictures.caption(int(row)) for row in spread))
    return Batches(order(0).steps, prompts, lambda start: _loader(pictures, order(start), config.workers))


def concept_batches(config: Dreambooth, pictures: ConceptPictures, rank: int = 0, world: int = 1) -> Batches:
    """The batches of a DreamBooth training."""
    size = pictures.batch

    def rows(start: int) -> Iterator[list[int]]:
        for step in range(start, config.steps):
            first = (step * world + rank) * size
            yield list(range(first, first + size))

    prompts = [prompt for prompt in (config.prompt, config.class_prompt) if prompt]
    return Batches(config.steps, prompts, lambda start: _loader(pictures, rows(start), config.workers))


def pictures_in(folder: str | Path, what: str) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    folder = Path(expand(folder))
    if not folder.is_dir():
        raise UserError(f"expected a folder with pictures of {what}, found none: {folder}")
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != ".")
    if not found:
        raise UserError(f"no picture of {what} in {folder}; expected {', '.join(PICTURES)}")
    for file in found:  # a few, so each is looked at: one that is replaced by another would be missed
        decode(file)
    return found


def _loader(pictures: Pictures, order: Iterable[list[int]], workers: int) -> DataLoader:
    return DataLoader(
        pictures,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # else it draws from the global one
    )


def collate(samples: Sequence[Batch]) -> Batch:
    """Samples → one batch."""
    return {
        "pixels": torch.stack([sample["pixels"] for sample in samples]),
        "prompts": [sample["prompt"] for sample in samples],
        "weights": torch.tensor([sample["weight"] for sample in samples]),
    }
