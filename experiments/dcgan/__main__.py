"""The paper's DCGANs: pictures of garments from noise alone.

python -m experiments.dcgan train experiments/presets/dcgan/fashion_mnist.yaml
accelerate launch -m experiments.dcgan train experiments/presets/dcgan/catalogue.yaml data.catalogue=[garments]
python -m experiments.dcgan generate runs/dcgan/fashion_mnist/last -n 1000 --out runs/made
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fclip.errors import run_program

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _program() -> None:
    """Pictures of garments from noise alone: the paper's DCGANs."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    preset: Annotated[Path, typer.Argument(help="A preset, e.g. experiments/presets/dcgan/fashion_mnist.yaml.")],
    resume: Annotated[
        Path | None, typer.Option(help="Continue an interrupted run from its OUT/last (or OUT/previous).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in OUT.")] = False,
) -> None:
    """Teach a generator and a discriminator; any key of the preset may follow.

    \b
    python -m experiments.dcgan train experiments/presets/dcgan/fashion_mnist.yaml data.idx=train-images-idx3-ubyte.gz
    python -m experiments.dcgan train PRESET.yaml --resume OUT/last
    """
    from experiments.dcgan.config import Dcgan
    from experiments.dcgan.train import run_training
    from fclip.config import load_config

    run_training(load_config(Dcgan, preset, context.args), resume, overwrite)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="OUT/last of a training.")],
    preferences: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its participants get -n each; their words are not heard.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Pictures: in all, or for each participant.")] = 64,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the pictures; what is there is kept.")] = Path(
        "runs/dcgan/generations"
    ),
    seed: Annotated[int, typer.Option(help="Of all pictures; each gets its own, made from it.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures at once.")] = 64,
) -> None:
    """Make pictures, into a folder for `user_study` and `eval generation`.

    \b
    python -m experiments.dcgan generate runs/dcgan/catalogue/last -n 1000 --out runs/made
    python -m experiments.dcgan generate runs/dcgan/catalogue/last --preferences preferences.csv -n 4
    """
    from experiments.dcgan.generate import generate as make
    from experiments.diffusion.participants import Participant, read_participants
    from fclip.machine import tune_cpu

    tune_cpu()
    for name, value in (("-n", n), ("--batch-size", batch_size)):
        if value < 1:
            raise typer.BadParameter(f"expected at least 1, got {value}", param_hint=name)
    if preferences is None:  # each picture stands for itself
        people, each = [Participant(f"{number:05}", "") for number in range(1, n + 1)], 1
    else:
        people, each = read_participants(preferences), n
    made = make(checkpoint, people, each, out, seed, batch_size, progress=sys.stderr.isatty())
    print(f"{len(made)} pictures in {out}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.dcgan")


if __name__ == "__main__":
    main()
