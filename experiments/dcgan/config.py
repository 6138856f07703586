"""Presets of the DCGANs: every key, with a comment.

config = load_config(Dcgan, "experiments/presets/dcgan/catalogue.yaml", ["data.catalogue=[garments]"])
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from fclip.config import STRICT, Paths, Share

Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class NetConfig:
    """The two networks, mirror images of each other."""

    channels: Literal[1, 3] = 3  # of the pictures: 1 grey, 3 colour
    latent: PositiveInt = 100  # numbers in the noise that a picture is made from
    width: PositiveInt = 64  # maps of the largest hidden layer; each halving of the side doubles them
    max_width: PositiveInt = 512  # maps of a layer at most
    # What keeps the discriminator in check: spectral norm of each of its layers (Miyato et al. 2018), or batch norm
    # in all but the first (the DCGAN paper).
    norm: Literal["spectral", "batch", "none"] = "spectral"


@dataclass(frozen=True, config=STRICT)
class PictureConfig:
    """Which pictures, and how they become square."""

    idx: str | None = None  # a file in Fashion-MNIST's format, train or t10k, packed by gzip or not
    catalogue: Paths = ()  # or paths, or "drawn:ITEMS:SEED"; several are joined
    format: str | None = None  # of the catalogue, when it cannot be told from the path
    split: str = "train"  # of the catalogue
    # Of a catalogue's pictures. squash: the aspect ratio is ignored (the paper). pad: the whole garment, white beside
    # it. crop: the middle.
    fit: Literal["pad", "crop", "squash"] = "pad"
    flip: Share = 0.5  # chance of mirroring left to right; never upside down


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """Adam with two rates (TTUR, Heusel et al. 2017)."""

    generator_lr: PositiveFloat = 1e-4  # of the generator
    discriminator_lr: PositiveFloat = 4e-4  # of the discriminator
    beta1: Decay = 0.5  # Adam; the DCGAN paper's
    beta2: Decay = 0.999  # Adam
    # hinge: margins of 1 (Lim & Ye 2017). non_saturating: log-sigmoids (Goodfellow et al. 2014).
    loss: Literal["hinge", "non_saturating"] = "hinge"
    # What pictures, real and made, go through before they are judged (DiffAugment, Zhao et al. 2020); matters most
    # with few pictures. Empty: nothing.
    augment: tuple[Literal["colour", "shift", "cutout"], ...] = ("colour", "shift", "cutout")
    # Decay of the averaged generator, which then makes the samples and is kept; shorter in the first steps. 0: none.
    ema: Decay = 0.999


@dataclass(frozen=True, config=STRICT)
class Dcgan:
    """A whole run."""

    out: str = "runs/dcgan"  # folder of the run: last/, samples/, curves.jsonl, curves.png
    seed: int = 0  # of initialisation, order, noise and augmentation
    size_px: PositiveInt = 256  # side of the pictures: 4, 5, 6 or 7 doubled some times
    epochs: PositiveInt = 30  # passes over the pictures
    batch_size: PositiveInt = 64  # per process
    save_every: PositiveInt = 1  # epochs between checkpoints; the last epoch always leaves one
    samples: PositiveInt = 64  # pictures of the grid that each epoch leaves, always from the same noise
    report_every: PositiveInt = 20  # steps that a point of the curves is the mean of
    workers: NonNegativeInt = 2  # processes that decode a catalogue's pictures
    net: NetConfig = dataclasses.field(default_factory=NetConfig)
    data: PictureConfig = dataclasses.field(default_factory=PictureConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
