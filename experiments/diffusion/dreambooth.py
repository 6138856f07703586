"""DreamBooth (Ruiz et al. 2023): teaches Stable Diffusion one thing from a few pictures, without forgetting its class.

accelerate launch -m experiments.diffusion dreambooth experiments/presets/diffusion/dreambooth.yaml \\
  instance=photos "prompt=a photo of sks dress" "class_prompt=a photo of a dress"

Prior preservation: half of every batch shows the class as the model drew it before the training. Those pictures are
made once and kept, so that another run (or a continued one) uses the same. The paper (section 9.2) trained such a
model, and could not load it afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.diffusion.finetune import launched, prepare, say
from fclip.errors import UserError

if TYPE_CHECKING:
    from experiments.diffusion.config import Dreambooth
    from experiments.diffusion.loop import Run

FEW = 3  # pictures below which one learns the background with the thing


def run_dreambooth(config: Dreambooth, resume: Path | None = None, overwrite: bool = False) -> Run:
    """Makes the pictures of the class that are missing, opens the model, and trains.

    Raises:
        UserError: anything in the preset that does not fit, no pictures, or an OUT that holds a run.
    """
    from experiments.diffusion.loop import train
    from experiments.diffusion.pictures import ConceptPictures, concept_batches, pictures_in
    from experiments.diffusion.pipelines import open_pipeline

    check(config)
    instance = pictures_in(config.instance, "the one thing (instance)")
    prepare(config.out, resume, overwrite)
    state = launched()
    if len(instance) < FEW:
        say(f"note: {len(instance)} pictures are few: what is around the thing will be learned too; 3 to 20 are better")
    with state.main_process_first():
        of_class = class_pictures(config) if config.class_prompt else []
    pictures = ConceptPictures(instance, of_class, config)
    batches = concept_batches(config, pictures, state.process_index, state.num_processes)
    run = train(config, open_pipeline(config.model), batches, resume=resume)
    say(f"adapters: {run.out / 'lora'} (generate --lora), sample grids: {run.out / 'samples'}")
    return run


def check(config: Dreambooth) -> None:
    """Raises UserError for settings that do not say what is to be learned."""
    if not config.instance:
        raise UserError("no pictures to learn from; set instance=FOLDER")
    if not config.prompt.strip():
        raise UserError('no name for what is learned; set "prompt=a photo of sks dress", sks being a rare word')
    if config.class_prompt and config.class_prompt.strip() == config.prompt.strip():
        raise UserError(f"prompt and class_prompt are the same, {config.prompt!r}; give the one thing a rare word more")


def class_pictures(config: Dreambooth) -> list[Path]:
    """The pictures of the class: those of the folder, and what was missing, drawn by the model and kept.

    Raises:
        UserError: a folder with too few pictures of somebody else's.
    """
    from experiments.diffusion.generate import Machine, Settings, generate
    from experiments.diffusion.participants import Participant
    from experiments.diffusion.pictures import pictures_in
    from fclip.generations import LIST

    folder, wanted = Path(config.class_folder or Path(config.out) / "class"), config.class_pictures
    theirs = folder.is_dir() and any(folder.iterdir()) and not (folder / LIST).is_file()
    if not theirs:
        settings = Settings(config.model, wanted, template="{text}", negative="", seed=config.seed,
                            height=config.size_px, width=config.size_px)  # fmt: skip
        generate([Participant("class", config.class_prompt)], folder, settings, Machine(config.batch_size))
    found = pictures_in(folder, f"the class ({config.class_prompt})")
    if len(found) < wanted:
        raise UserError(
            f"expected {wanted} pictures of the class in {folder}, found {len(found)}; set "
            f"class_pictures={len(found)}, or name an empty folder: the model then draws them"
        )
    return found[:wanted]
