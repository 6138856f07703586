"""Presets of the two ways to teach a diffusion model: every key, with a comment.

config = load_config(Finetune, "experiments/presets/diffusion/finetune.yaml", ["data.catalogue=[garments]"])
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from fclip.config import STRICT, CaptionConfig, Paths, Share


@dataclass(frozen=True, config=STRICT)
class AdapterConfig:
    """Low-rank adapters (LoRA) in the attention layers; nothing else learns."""

    rank: PositiveInt = 16  # of those in the UNet
    alpha: PositiveFloat = 16.0  # the update is scaled by alpha / rank
    dropout: Share = 0.0  # before the adapters
    text_rank: NonNegativeInt = 0  # of those in the text encoder; 0: it stays as it is


@dataclass(frozen=True, config=STRICT)
class NoiseConfig:
    """How the noise is drawn, and how much each of its levels counts."""

    min_snr: NonNegativeFloat = 0.0  # gamma of min-SNR weighting (Hang et al. 2023, who take 5); 0: every level alike
    # Share of a noise that is the same for a whole channel, so that very light and dark pictures can be learned
    # (0.05 to 0.1 is usual); 0: none.
    offset: NonNegativeFloat = 0.0


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """AdamW."""

    lr: PositiveFloat = 1e-4  # peak
    weight_decay: NonNegativeFloat = 0.01  # of the adapters
    beta1: float = 0.9  # AdamW
    beta2: float = 0.999  # AdamW
    warmup: Share = 0.05  # share of all steps
    schedule: Literal["constant", "cosine"] = "cosine"  # after the warm-up
    clip_norm: NonNegativeFloat = 1.0  # of the gradient; 0: none


@dataclass(frozen=True, config=STRICT)
class SampleConfig:
    """Pictures that are drawn along the way, always from the same noise."""

    every: NonNegativeInt = 500  # steps between them; the first before the first step, the last after the last. 0: none
    prompts: tuple[str, ...] = ()  # a row of the grid each; empty: those of the training
    columns: PositiveInt = 4  # pictures to each prompt
    steps: PositiveInt = 25  # of denoising
    guidance: NonNegativeFloat = 7.5  # how much the prompt counts
    seed: NonNegativeInt = 0  # of the noise


@dataclass(frozen=True, config=STRICT)
class Training:
    """What both ways share."""

    out: str = "runs/diffusion"  # folder of the run: last/, lora/, samples/, history.json
    seed: int = 0  # of adapters, order, noise
    model: str = "stable-diffusion-1.5"  # a published name, owner/name on the hub, or a folder in diffusers' format
    size_px: Annotated[int, Field(ge=8, multiple_of=8)] = 512  # side of the training pictures
    batch_size: PositiveInt = 4  # per process and step
    micro_batch: NonNegativeInt = 0  # pictures per forward pass, the gradients of the batch added up; 0: all at once
    gradient_checkpointing: bool = False  # a third of the memory for a third more time
    bf16_on_gpu: bool = True  # where `accelerate launch --mixed_precision` says nothing or "no"
    save_every: NonNegativeInt = 500  # steps between checkpoints to resume from; 0: only at the end
    workers: NonNegativeInt = 2  # processes that decode
    track: str = "tensorboard"  # "none", or any tracker that accelerate knows
    adapter: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    samples: SampleConfig = dataclasses.field(default_factory=SampleConfig)


@dataclass(frozen=True, config=STRICT)
class PictureConfig:
    """Which pictures of a catalogue, and how they become square."""

    catalogue: Paths = ()  # paths, or "drawn:ITEMS:SEED"; several are joined
    format: str | None = None  # of the catalogue, when it cannot be told from the path
    train_split: str = "train"  # what is learned from
    val_split: str = "val"  # what the validation loss is of
    # pad: the whole garment, white beside it. crop: the middle.
    fit: Literal["pad", "crop"] = "pad"
    flip: Share = 0.5  # chance of mirroring


@dataclass(frozen=True, config=STRICT)
class Finetune(Training):
    """Adapters that learn a catalogue's pictures and captions."""

    epochs: PositiveFloat = 10  # passes over the training split
    caption_dropout: Share = 0.1  # share of pictures without a caption: guidance needs to know what those look like
    val_pictures: NonNegativeInt = 64  # of the validation loss, with noise that never changes; 0: none
    data: PictureConfig = dataclasses.field(default_factory=PictureConfig)
    captions: CaptionConfig = dataclasses.field(default_factory=CaptionConfig)


@dataclass(frozen=True, config=STRICT)
class Dreambooth(Training):
    """Adapters that learn one thing from a few pictures, and keep what its class looks like (Ruiz et al. 2023)."""

    instance: str = ""  # folder with 3 to 20 pictures of the one thing
    prompt: str = ""  # what it is called, with a rare word: "a photo of sks dress"
    class_prompt: str = ""  # its class: "a photo of a dress"; empty: no prior preservation
    class_folder: str | None = None  # pictures of the class; what is missing is generated and kept. None: OUT/class
    class_pictures: PositiveInt = 200  # that are used
    prior_weight: NonNegativeFloat = 1.0  # of the loss on the pictures of the class
    steps: PositiveInt = 800  # of training
    flip: Share = 0.0  # chance of mirroring
