"""What a DCGAN learns from: pictures (C, S, S) in -1 … 1, of a file of Fashion-MNIST or of any catalogue.

pictures = open_pictures(config)
for batch in loader(pictures, BatchOrder(len(pictures), 64, epochs=30, seed=0), workers=2): …   # (B, C, S, S)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.dcgan.config import Dcgan
from fclip.catalogue.idx import read_idx
from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

FIT = {"pad": "longest", "crop": "shortest", "squash": "squash"}
LOOKED_AT = 32  # pictures of a catalogue that are looked at before training
MOST_UNREADABLE = 100  # in a row
COLOURED = 24  # levels between the channels of a pixel, above what JPEG does to a grey one
FEW_PIXELS = 0.001  # share of coloured ones that a grey picture may have: a stamp, a stray mark


class Pictures(torch.utils.data.Dataset):
    """Pictures of one size, mirrored by chance; index = epoch · number + row, and decides what it gives.

    Pictures that cannot be read are replaced by the next.
    """

    def __init__(self, config: Dcgan, stored: NDArray[np.uint8] | Dataset) -> None:
        from fclip.model import Preprocess

        self._stored, self._config = stored, config
        size = (config.size_px, config.size_px)
        self._preprocess = Preprocess(size=size, resize_mode=FIT[config.data.fit], fill_color=255)

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> Tensor:
        """The picture.

        Raises:
            UnreadableImageError: none of very many in a row can be read.
        """
        epoch, row = divmod(index, len(self))
        pixels = self._pixels(row).float() / 127.5 - 1
        mirrored = np.random.default_rng([self._config.seed, epoch, row]).random() < self._config.data.flip
        return pixels.flip(-1) if mirrored else pixels

    def _pixels(self, row: int) -> Tensor:
        """uint8 (C, S, S)."""
        if isinstance(self._stored, np.ndarray):
            return torch.from_numpy(self._stored[row].copy())[None]
        problem = ""
        for offset in range(min(len(self), MOST_UNREADABLE)):
            try:
                cell = self._stored[(row + offset) % len(self)]["image"]
                return self._preprocess(decode(cell, self._config.size_px))[: self._config.net.channels]
            except UnreadableImageError as error:
                problem = problem or str(error)
        raise UnreadableImageError(f"no readable picture among many in a row; the first: {problem}")


def open_pictures(config: Dcgan) -> Pictures:
    """Opens what the preset names.

    Raises:
        UserError: neither a file nor a catalogue, or both; grey pictures for a coloured model or the reverse; another
            size; or anything that `read_idx` and `open_catalogue` refuse.
    """
    if (config.data.idx is None) == (not config.data.catalogue):
        raise UserError("expected pictures from one place; set data.idx=FILE or data.catalogue=[PATH]")
    if config.data.idx is None:
        return Pictures(config, _catalogue(config))
    pictures = read_idx(config.data.idx)
    side = (config.size_px, config.size_px)
    if config.net.channels != 1:
        raise UserError(f"{config.data.idx} has grey pictures and the model is for colour; set net.channels=1")
    if pictures.shape[1:] != side:
        has = "×".join(map(str, pictures.shape[1:]))
        raise UserError(f"{config.data.idx} has pictures of {has}, the model is for {side[0]}; set size_px")
    return Pictures(config, pictures)


def _catalogue(config: Dcgan) -> Dataset:
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    catalogue = select_split(open_catalogue(config.data.catalogue, format=config.data.format), config.data.split)
    check_colours(catalogue, config.net.channels)
    return catalogue.select_columns(["image"])


def check_colours(catalogue: Dataset, channels: int) -> None:
    """Raises UserError when the pictures (some are looked at) are grey and the model is for colour, or the reverse."""
    rows = np.linspace(0, len(catalogue) - 1, min(LOOKED_AT, len(catalogue))).astype(int)
    seen = []
    for row in dict.fromkeys(rows.tolist()):
        try:
            seen.append(is_coloured(decode(catalogue[row]["image"], 64)))
        except UnreadableImageError:
            continue
    if channels == 3 and seen and not any(seen):
        raise UserError(
            f"all of {len(seen)} pictures looked at are grey and the model is for colour; set net.channels=1"
        )
    if channels == 1 and any(seen):
        raise UserError(
            f"{sum(seen)} of {len(seen)} pictures looked at have colours and the model is for grey; set net.channels=3"
        )


def is_coloured(picture: Image) -> bool:
    """Whether a decoded picture has more than shades of grey."""
    pixels = np.asarray(picture, np.int16)
    return bool((np.ptp(pixels, axis=-1) > COLOURED).mean() > FEW_PIXELS)


def loader(pictures: Pictures, order: Iterable[list[int]], workers: int) -> DataLoader:
    """Batches (B, C, S, S) in an order."""
    return DataLoader(
        pictures,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        generator=torch.Generator(),  # else it draws from the global one
        pin_memory=torch.cuda.is_available(),
    )
