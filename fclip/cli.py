"""The `fclip` command: look at a catalogue, draw one, index it, ask it; mix two models, take one elsewhere.

    fclip search garments-index --text "red summer dress" --image photo.jpg --where gender=Women -k 4

Training is `accelerate launch -m experiments.train`, measuring `python -m eval`.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from fclip.commands import catalogues, indexes, models, searching, serving
from fclip.errors import run_program

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _program() -> None:
    """Look at a catalogue of products, index it, and ask it with words, photographs and filters.

    \b
    fclip draw garments --items 1000
    fclip catalogue garments
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index
    fclip search garments-index --text "red dress" --where category=dress
    fclip serve garments-index
    fclip export runs/demo/best --to onnx --out garments-onnx

    Train with `accelerate launch -m experiments.train`, measure with `python -m eval`.
    """


app.command("catalogue")(catalogues.catalogue)
app.command("draw")(catalogues.draw)
app.command("index")(indexes.index)
app.command("search")(searching.search)
app.command("serve")(serving.serve)
app.command("tower")(models.tower)
app.command("interpolate")(models.interpolate)
app.command("export")(models.export)
app.command("models")(models.models)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "fclip")


if __name__ == "__main__":  # what torchrun and accelerate start
    main()
