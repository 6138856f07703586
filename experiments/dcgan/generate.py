"""Makes pictures with a trained generator, into a folder that the study and the evaluation read.

python -m experiments.dcgan generate runs/dcgan/fashion_mnist/last -n 1000 --out runs/made
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.errors import UserError

if TYPE_CHECKING:
    from experiments.diffusion.participants import Participant
    from fclip.generations import Generation


def generate(
    checkpoint: str | Path,
    people: Sequence[Participant],
    each: int,
    out: Path,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Generation]:
    """Makes what is missing of `each` pictures for everybody.

    A picture's noise comes from (seed, participant, number): in whatever batch it is made, it stays the same.

    Raises:
        UserError: no checkpoint of a DCGAN, or a folder with pictures of another one, seed or list of people.
    """
    import torch
    from tqdm.auto import tqdm

    from experiments.dcgan.saving import WEIGHTS, as_images, open_generator
    from fclip.files import sha256, writable_folder
    from fclip.generations import Generation, continue_generations, keep, picture_name, seed_of

    generator, config = open_generator(checkpoint)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    generator.to(device)
    about = {"kind": "dcgan", "size_px": config.size_px, "weights": sha256(Path(checkpoint) / WEIGHTS)[:16]}
    wanted = []
    for person in people:
        for index in range(each):
            own, name = seed_of(seed, person.name, index), picture_name(person.name, index)
            settings = about | ({"text": person.text} if person.text else {})
            wanted.append(Generation(name, person.name, index, "", "", own, str(checkpoint), 0.0, settings))
    made = continue_generations(writable_folder(out, "--out"))
    check_same(made, wanted, out)
    there = {one.file for one in made}
    missing = [one for one in wanted if one.file not in there]
    for first in tqdm(range(0, len(missing), batch_size), desc="pictures", disable=not progress):
        part = missing[first : first + batch_size]
        began = time.monotonic()
        noise = [torch.randn(config.net.latent, generator=torch.Generator().manual_seed(one.seed)) for one in part]
        pictures = as_images(generator(torch.stack(noise).to(device)))
        seconds = (time.monotonic() - began) / len(part)
        for one, picture in zip(part, pictures, strict=True):
            done = replace(one, seconds=round(seconds, 6))
            keep(out, done, picture)
            made.append(done)
    return made


def check_same(made: Sequence[Generation], wanted: Sequence[Generation], out: Path) -> None:
    """Raises UserError when a folder holds pictures of another generator or seed, or of others."""
    asked = {one.file: one for one in wanted}
    for one in made:
        now = asked.get(one.file)
        if now is None:
            raise UserError(f"{out} holds {one.file}, which is not asked for now; choose another --out")
        if (one.seed, one.settings.get("weights")) != (now.seed, now.settings["weights"]):
            raise UserError(f"{out} holds pictures of another generator or seed; choose another --out")
