"""Fine-tunes Stable Diffusion on a catalogue's pictures and captions by adapters.

accelerate launch -m experiments.diffusion finetune PRESET.yaml data.catalogue=[garments]
python -m experiments.diffusion generate preferences.csv --lora runs/diffusion/finetune/lora

The paper (section 9.2) wanted this on 4,000 pictures of DeepFashion and could not get it to run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.errors import UserError

if TYPE_CHECKING:
    from accelerate.state import PartialState
    from datasets import Dataset

    from experiments.diffusion.config import Finetune
    from experiments.diffusion.loop import Run
    from fclip.captions import Captions


def run_finetune(config: Finetune, resume: Path | None = None, overwrite: bool = False) -> Run:
    """Opens the catalogue and the model, and trains.

    Raises:
        UserError: anything in the preset that does not fit, too few pictures, or an OUT that holds a run.
    """
    from experiments.diffusion.loop import train
    from experiments.diffusion.pictures import CataloguePictures, catalogue_batches
    from experiments.diffusion.pipelines import open_pipeline
    from experiments.train import captions_of
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.kinds import word_groups
    from fclip.catalogue.schema import select_split

    if not config.data.catalogue:
        raise UserError("no catalogue to learn from; set data.catalogue=[PATH]")
    prepare(config.out, resume, overwrite)
    state = launched()
    with state.local_main_process_first():
        catalogue = open_catalogue(config.data.catalogue, format=config.data.format)
    captions = captions_of(config.captions, word_groups(catalogue))
    pictures = CataloguePictures(select_split(catalogue, config.data.train_split), captions, config)
    batches = catalogue_batches(config, pictures, state.process_index, state.num_processes)
    validation = _validation(catalogue, captions, config)
    pipe = open_pipeline(config.model)
    say(f"{len(pictures)} pictures in {batches.steps} steps, e.g. {batches.prompts[0]!r}")
    run = train(config, pipe, batches, validation, resume)
    say(f"adapters: {run.out / 'lora'} (generate --lora), sample grids: {run.out / 'samples'}")
    return run


def _validation(catalogue: Dataset, captions: Captions, config: Finetune) -> list[dict]:
    """Batches of pictures with whole captions, always the same."""
    from experiments.diffusion.pictures import CataloguePictures, collate
    from fclip.catalogue.schema import select_split

    if not config.val_pictures or config.data.val_split not in set(catalogue["split"][:]):
        return []
    part = select_split(catalogue, config.data.val_split).shuffle(seed=0)
    pictures = CataloguePictures(part, captions, config, learned=False)
    rows = range(min(config.val_pictures, len(pictures)))
    chunks = [rows[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size)]
    return [collate([pictures[row] for row in chunk]) for chunk in chunks]


def prepare(out: str, resume: Path | None, overwrite: bool) -> None:
    """Settles launch and processor, and refuses an OUT in use.

    Raises:
        UserError: OUT holds a run, and it is neither continued nor replaced.
    """
    from fclip.distributed import settle_launch
    from fclip.files import recover, writable_folder
    from fclip.machine import tune_cpu

    settle_launch()
    tune_cpu()
    last = Path(out) / "last"
    if launched().is_main_process:
        recover(last)
    if last.exists() and not (resume or overwrite):
        raise UserError(f"{out} already holds a run; continue with --resume {last}, or --overwrite, or set out=…")
    writable_folder(out, "out=…")


def launched() -> PartialState:
    """The processes of this launch; to be asked after `prepare`.

    The first state made is the process's, and without the flag each of several on CPUs takes itself for the only one.
    """
    from accelerate.state import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def say(line: str) -> None:
    """On the main process."""
    if launched().is_main_process:
        print(line, file=sys.stderr)
