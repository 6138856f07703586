"""Sample grids: a row for each prompt, a column for each noise, the same noise every time.

draw_grid(pipe, ["red dress", "blue shirt"], SampleConfig(columns=4), size_px=512).save("samples.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from experiments.diffusion.config import SampleConfig
from fclip.generations import seed_of

if TYPE_CHECKING:
    from PIL.Image import Image

GAP_PX = 4


@torch.no_grad()
def draw_grid(pipe: Any, prompts: Sequence[str], config: SampleConfig, size_px: int) -> Image:
    """Draws the pictures with the pipeline as it is, one row at a time; training goes on unchanged afterwards."""
    from diffusers import StableDiffusionPipeline

    # Of the same parts: a scheduler of its own, and no safety checker, which is for pictures that are shown to others.
    painter = StableDiffusionPipeline(
        **{**pipe.components, "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config)}
        | {"safety_checker": None, "requires_safety_checker": False}
    )
    painter.set_progress_bar_config(disable=True)
    modes = [(part, part.training) for part in (pipe.unet, pipe.text_encoder)]
    for part, _ in modes:
        part.eval()
    rows = []
    for row, prompt in enumerate(prompts):
        seeds = [seed_of(config.seed, str(row), column) for column in range(config.columns)]
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        told = {"num_inference_steps": config.steps, "guidance_scale": config.guidance}
        rows.append(painter([prompt] * len(noise), generator=noise, height=size_px, width=size_px, **told).images)
    for part, training in modes:
        part.train(training)
    return tiled(rows)


def tiled(rows: Sequence[Sequence[Image]]) -> Image:
    """Pictures of one size, side by side and below each other."""
    from PIL import Image

    width, height = rows[0][0].size
    grid = Image.new(
        "RGB", (max(map(len, rows)) * (width + GAP_PX) - GAP_PX, len(rows) * (height + GAP_PX) - GAP_PX), "white"
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            grid.paste(picture, (x * (width + GAP_PX), y * (height + GAP_PX)))
    return grid
