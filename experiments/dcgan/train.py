"""From a preset to a trained DCGAN.

python -m experiments.dcgan train experiments/presets/dcgan/fashion_mnist.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.dcgan.config import Dcgan
    from experiments.dcgan.loop import Run

FEW = 1000  # pictures below which a GAN mostly learns them by heart


def run_training(config: Dcgan, resume: Path | None = None, overwrite: bool = False) -> Run:
    """Opens the pictures and trains.

    Raises:
        UserError: anything in the preset that does not fit, too few pictures, or an OUT that holds a run.
    """
    from experiments.dcgan.loop import train
    from experiments.dcgan.models import doublings
    from experiments.dcgan.pictures import open_pictures
    from experiments.diffusion.finetune import launched, prepare, say

    doublings(config.size_px)
    prepare(config.out, resume, overwrite)
    with launched().local_main_process_first():
        pictures = open_pictures(config)
    say(f"{len(pictures)} pictures of {config.size_px}×{config.size_px}, {config.epochs} epochs")
    if len(pictures) < FEW:
        say(f"note: {len(pictures)} pictures are few; a GAN wants thousands, or learns them by heart")
    run = train(config, pictures, resume)
    say(f"generator: {run.out / 'last'}, sample grids: {run.out / 'samples'}, curves: {run.out / 'curves.png'}")
    return run
