"""What a run leaves: checkpoints, written whole or not at all, and grids of samples.

save_last(run)                        # OUT/last; the one before it becomes OUT/previous
continue_from(run, Path("OUT/last"))
generator, config = open_generator("OUT/last")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.dcgan.config import Dcgan
from experiments.dcgan.models import Generator
from fclip.checkpoint import damaged_file, write_checksums
from fclip.config import dump_preset, load_config
from fclip.errors import UserError
from fclip.files import expand, new_folder, recover
from fclip.resuming import check_checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image

    from experiments.dcgan.loop import Run

WEIGHTS = "generator.safetensors"
MAY_CHANGE = ("out:", "save_every:", "workers:", "samples:")
COLUMNS = 8


def save_last(run: Run) -> None:
    """Writes OUT/last, on the main process."""
    from safetensors.torch import save_file

    state = {
        "generator": run.bare_g.state_dict(),
        "discriminator": run.bare_d.state_dict(),
        "average": run.average.state_dict(),
        "adam_g": run.adam_g.state_dict(),
        "adam_d": run.adam_d.state_dict(),
        "step": run.step,
        "minutes": run.minutes,
        "history": run.history,
        "processes": run.accelerator.num_processes,
    }
    with new_folder(run.out / "last", overwrite=True, keep=run.out / "previous") as folder:
        save_file({name: value.contiguous() for name, value in run.average.state_dict().items()}, folder / WEIGHTS)
        with (folder / "state.pt").open("wb") as stream:
            torch.save(state, stream)
        (folder / "preset.yaml").write_text(dump_preset(run.config))
        write_checksums(folder)


def continue_from(run: Run, folder: Path) -> None:
    """Puts a run where the one that wrote this folder was.

    Raises:
        UserError: nothing to resume there, a damaged checkpoint, or one of another preset or number of processes.
    """
    if run.accelerator.is_main_process:
        recover(folder)
    run.accelerator.wait_for_everyone()
    check_checkpoint(folder, run.config, MAY_CHANGE)
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    if state["processes"] != run.accelerator.num_processes:
        raise UserError(f"the run in {folder} had {state['processes']} processes; launch as many as before")
    for name, part in (("generator", run.bare_g), ("discriminator", run.bare_d), ("average", run.average),
                       ("adam_g", run.adam_g), ("adam_d", run.adam_d)):  # fmt: skip
        part.load_state_dict(state[name])
    run.step, run.minutes, run.history = state["step"], state["minutes"], state["history"]


def open_generator(checkpoint: str | Path) -> tuple[Generator, Dcgan]:
    """The generator of a checkpoint, ready to make pictures, and its preset.

    Raises:
        UserError: no checkpoint of a DCGAN, or a damaged one.
    """
    from fclip.weights import load_state, read_weights

    folder = Path(expand(checkpoint))
    recover(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"expected a checkpoint of a DCGAN (OUT/last), found no {WEIGHTS} in {folder}")
    _check_whole(folder)
    config = load_config(Dcgan, folder / "preset.yaml")
    generator = Generator(config.net, config.size_px)
    load_state(generator, read_weights(folder / WEIGHTS), str(folder))
    return generator.eval().requires_grad_(False), config


def save_grid(run: Run, epoch: int) -> None:
    """Writes OUT/samples/epoch-….png: pictures of the averaged generator, always from the same noise."""
    config, device = run.config, run.accelerator.device
    noise = torch.randn(config.samples, config.net.latent, generator=torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        pictures = torch.cat([run.average(part.to(device)) for part in noise.split(config.batch_size)])
    folder = run.out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    grid(as_images(pictures)).save(folder / f"epoch-{epoch:04}.png")


def as_images(pictures: Tensor) -> list[Image]:
    """(B, C, S, S) in -1 … 1 → pictures of 8 bits."""
    from PIL import Image

    levels = ((pictures.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    arrays = levels.permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]


def grid(images: list[Image]) -> Image:
    """Rows of eight."""
    from experiments.diffusion.grids import tiled

    return tiled([images[first : first + COLUMNS] for first in range(0, len(images), COLUMNS)])


def _check_whole(folder: Path) -> None:
    damaged = damaged_file(folder)
    if damaged:
        raise UserError(f"{folder / damaged} is damaged; take {folder.parent / 'previous'}")
