"""Stable Diffusion as a baseline: pictures from words, and its fine-tuning on garments.

python -m experiments.diffusion generate preferences.csv --out runs/generations
accelerate launch -m experiments.diffusion finetune PRESET.yaml data.catalogue=[garments]
accelerate launch -m experiments.diffusion dreambooth PRESET.yaml instance=photos "prompt=a photo of sks dress"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.diffusion.prompts import NEGATIVE, TEMPLATE
from fclip.errors import run_program

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
PRESETS = "experiments/presets/diffusion"
Resume = Annotated[Path | None, typer.Option(help="Continue an interrupted run from its OUT/last (or OUT/previous).")]
Overwrite = Annotated[bool, typer.Option(help="Replace an earlier run in OUT.")]


@app.callback()
def _program() -> None:
    """Pictures from words with a diffusion model, and its fine-tuning on garments."""


@app.command()
def generate(
    preferences: Annotated[
        Path | None, typer.Argument(help="CSV, TSV or JSON lines: participant, text and maybe images.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="In place of a file; may be repeated.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A photograph for all --text, up to four.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the pictures; what is there is kept.")] = Path(
        "runs/generations"
    ),
    model: Annotated[
        str, typer.Option(help="stable-diffusion-1.5, owner/name on the hub, or a folder in diffusers' format.")
    ] = "stable-diffusion-1.5",
    n: Annotated[int, typer.Option("-n", help="Pictures for each participant.")] = 4,
    steps: Annotated[int, typer.Option(help="Of denoising.")] = 30,
    guidance: Annotated[float, typer.Option(help="How much the prompt counts.")] = 7.5,
    height: Annotated[int | None, typer.Option(help="In pixels. [default: the model's own]")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels. [default: the model's own]")] = None,
    template: Annotated[str, typer.Option(help="The prompt; {text} is the participant's words.")] = TEMPLATE,
    negative: Annotated[str, typer.Option(help="What no picture should show.")] = NEGATIVE,
    seed: Annotated[int, typer.Option(help="Of all pictures; each gets its own, made from it.")] = 0,
    strength: Annotated[float, typer.Option(help="Image to image: how far from the photograph, 0 to 1.")] = 0.75,
    lora: Annotated[str | None, typer.Option(metavar="PATH", help="Adapters, e.g. runs/finetune/lora.")] = None,
    lora_scale: Annotated[float, typer.Option(help="Of the adapters' updates.")] = 1.0,
    ip_adapter: Annotated[
        str | None, typer.Option(metavar="FILE", help="Takes photographs beside the words; else image to image.")
    ] = None,
    ip_scale: Annotated[float, typer.Option(help="Weight of the photographs.")] = 0.6,
    batch_size: Annotated[int, typer.Option(help="Pictures at once.")] = 4,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu. [default: what is here]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16. [default: the device's]")] = None,
    memory: Annotated[str, typer.Option(help="auto, all, slicing, tiling, offload or sequential.")] = "auto",
) -> None:
    """Draw pictures for participants' words (and photographs), into a folder for `user_study` and `eval generation`.

    \b
    python -m experiments.diffusion generate preferences.csv --out runs/generations
    python -m experiments.diffusion generate --text "red summer dress" --model models/sd15 --lora runs/finetune/lora

    \b
    preferences.csv:  participant,text,images
                      0001,"red summer dress, cotton",0001-a.jpg|0001-b.jpg
    """
    from experiments.diffusion.generate import Machine, Settings
    from experiments.diffusion.generate import generate as make
    from experiments.diffusion.participants import participants_of
    from fclip.machine import tune_cpu

    wishes = participants_of(preferences, text or [], image or [])
    settings = Settings(model=model, n=n, steps=steps, guidance=guidance, height=height, width=width, seed=seed,
                        template=template, negative=negative, strength=strength, lora=lora, lora_scale=lora_scale,
                        ip_adapter=ip_adapter, ip_scale=ip_scale)  # fmt: skip
    tune_cpu()
    made = make(wishes, out, settings, Machine(batch_size, device, dtype, memory), progress=sys.stderr.isatty())
    seconds = sum(one.seconds for one in made) / len(made)
    print(f"{len(made)} pictures for {len(wishes)} participants in {out}, {seconds:.2f} s each", file=sys.stderr)


@app.command(context_settings=PASSED_ON)
def finetune(
    context: typer.Context,
    preset: Annotated[Path, typer.Argument(help=f"A preset, e.g. {PRESETS}/finetune.yaml.")],
    resume: Resume = None,
    overwrite: Overwrite = False,
) -> None:
    """Teach the model a catalogue's pictures and captions by adapters (LoRA).

    \b
    accelerate launch -m experiments.diffusion finetune PRESET.yaml data.catalogue=[garments] out=runs/finetune
    accelerate launch -m experiments.diffusion finetune PRESET.yaml --resume runs/finetune/last
    """
    from experiments.diffusion.config import Finetune
    from experiments.diffusion.finetune import run_finetune
    from fclip.config import load_config

    run_finetune(load_config(Finetune, preset, context.args), resume, overwrite)


@app.command(context_settings=PASSED_ON)
def dreambooth(
    context: typer.Context,
    preset: Annotated[Path, typer.Argument(help=f"A preset, e.g. {PRESETS}/dreambooth.yaml.")],
    resume: Resume = None,
    overwrite: Overwrite = False,
) -> None:
    """Teach the model one thing from a few pictures of it, without forgetting its class.

    \b
    accelerate launch -m experiments.diffusion dreambooth PRESET.yaml instance=photos "prompt=a photo of sks dress"
    """
    from experiments.diffusion.config import Dreambooth
    from experiments.diffusion.dreambooth import run_dreambooth
    from fclip.config import load_config

    run_dreambooth(load_config(Dreambooth, preset, context.args), resume, overwrite)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.diffusion")


if __name__ == "__main__":
    main()
