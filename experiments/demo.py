"""The main job from end to end, offline, on drawn garments: what `make demo` runs.

    python -m experiments.demo --out runs/demo

Draws a catalogue, measures the untrained model, trains, measures again on the test split, indexes it, asks with words,
with words and a picture, and with a filter, and leaves a self-contained page, OUT/report.html.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eval.html import data_uri, png_uri, render
from fclip.errors import UserError, run_program

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

    from fclip.index import Answer
    from fclip.recommend import Recommender

HERE = Path(__file__).parent
MARK = "demo.txt"  # tells a folder that may be replaced from one that may not
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For all that is made; an earlier demo is replaced.")] = (
        Path("runs/demo")
    ),
    preset: Annotated[Path, typer.Option(metavar="FILE", help="What is trained; its catalogue must be drawn.")] = (
        HERE / "presets" / "drawn.yaml"
    ),
    override: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the preset; may be repeated.")
    ] = None,
) -> None:
    """The main job from end to end, offline, on drawn garments; leaves OUT/report.html.

    \b
    python -m experiments.demo
    python -m experiments.demo --out runs/small --override epochs=1 --override "data.catalogue=[drawn:200]"

    Draws a catalogue, measures the untrained model, trains, measures again on the test split, indexes it and asks.
    """
    from fclip.config import load_preset
    from fclip.files import write_text
    from fclip.machine import tune_cpu

    began = time.monotonic()
    settings = load_preset(preset, [*(override or []), f"out={out}"])
    _make_room(out)
    tune_cpu()
    values = _run(settings, out)
    minutes = (time.monotonic() - began) / 60
    write_text(out / "report.html", render("demo.html.j2", HERE, **values, minutes=minutes))
    print(f"done in {minutes:.1f} minutes; open {out / 'report.html'}")


def _make_room(out: Path) -> None:
    """Removes an earlier demo, and never anything else."""
    from fclip.files import write_text

    if out.exists() and not (out / MARK).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is not of an earlier demo, so it is not replaced; choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make folder {out}: {error.strerror}; choose another --out") from None
    write_text(out / MARK, "Made by python -m experiments.demo; the next one replaces this whole folder.\n")


def _run(settings: Any, out: Path) -> dict[str, Any]:
    """The five steps; returns what the page shows."""
    from eval.compare import compare
    from eval.surfacing import run_surfacing
    from experiments.train import prepare, run_prepared
    from fclip.catalogue import open_catalogue, save_catalogue
    from fclip.catalogue.schema import check_groups, select_split
    from fclip.checkpoint import load_checkpoint, save_checkpoint
    from fclip.index import build_index
    from fclip.recommend import ModelEncoder, Recommender

    _step(1, "drawing garments")
    garments = out / "catalogue"
    save_catalogue(open_catalogue(settings.data.catalogue, format=settings.data.format), garments)
    settings = replace(settings, data=replace(settings.data, catalogue=(str(garments),), format=None))
    catalogue = open_catalogue(garments)
    check_groups(catalogue, ["category", "colour"])  # what is asked for below

    _step(2, "measuring the untrained model")
    prepared = prepare(settings)
    save_checkpoint(prepared.model, out / "untrained")
    before = run_surfacing(out / "untrained", garments, "test", out / "untrained.json", progress=False)

    _step(3, "training")
    run_prepared(prepared)

    _step(4, "measuring the trained model")
    after = run_surfacing(out / "best", garments, "test", out / "trained.json", progress=False)
    tables, notes = compare([out / "untrained.json", out / "trained.json"], out / "table.md", out / "pca.png")

    _step(5, "indexing the test garments and asking")
    test, model = select_split(catalogue, "test"), load_checkpoint(out / "best")
    recommender = Recommender(build_index(out / "index", model, test, str(out / "best")), ModelEncoder(model))
    return {
        "pictures": len(catalogue),
        "examples": png_uri(_examples(test)),
        "before": before,
        "after": after,
        "tables": tables,
        "notes": notes,
        "curve": _curve(out),
        "pca": data_uri((out / "pca.png").read_bytes()),
        "questions": _ask(recommender, test, out),
    }


def _step(number: int, what: str) -> None:
    print(f"[{number}/5] {what}", file=sys.stderr, flush=True)


def _ask(recommender: Recommender, test: Dataset, out: Path) -> list[dict[str, Any]]:
    """Words alone; a picture with words, "like this, but …"; and both with a filter."""
    from fclip.contact_sheet import contact_sheet, save_contact_sheet
    from fclip.images import decode

    garments = test["attributes"][:]
    fitting = (i for i, a in enumerate(garments) if a["category"] == "dress" and a["colour"] != "red")
    row = next(fitting, 0)
    other = next((c for c in recommender.index.values("category") if c != garments[row]["category"]), "dress")
    photo = test[row]["image"]
    asked: list[tuple[list[str], list[Any], dict[str, str]]] = [
        (["red striped dress"], [], {}),
        (["red"], [photo], {}),
        (["striped"], [photo], {"category": other}),
    ]
    questions = []
    for number, (texts, images, where) in enumerate(asked, start=1):
        answers = recommender.ask(texts, images, where=where, k=4)
        filters = ", ".join(f"{group}={value}" for group, value in where.items())
        save_contact_sheet(out / f"question{number}.png", contact_sheet(answers, texts, images, filters))
        photos = [png_uri(decode(image)) for image in images]
        questions.append({"texts": texts, "where": filters, "photos": photos, "answers": list(map(_shown, answers))})
    return questions


def _shown(answer: Answer) -> dict[str, str]:
    from fclip.contact_sheet import in_words

    words = answer.title or in_words(answer.attributes)
    return {"picture": data_uri(answer.thumbnail, "jpeg"), "score": f"{answer.score:.3f}", "words": words}


def _examples(test: Dataset, number: int = 12, side_px: int = 128) -> Image:
    """A picture of each of the first products, side by side in rows of six."""
    from PIL import Image, ImageOps

    from fclip.images import decode

    first = {item: row for row, item in reversed(list(enumerate(test["item"])))}  # product → its first row
    rows = sorted(first.values())[:number]
    across = min(6, len(rows))
    strip = Image.new("RGB", (across * side_px, -(-len(rows) // across) * side_px), "white")
    for place, cell in enumerate(test.select(rows)["image"]):
        picture = ImageOps.pad(decode(cell, side_px), (side_px, side_px), color="white")
        strip.paste(picture, (place % across * side_px, place // across * side_px))
    return strip


def _curve(out: Path) -> str:
    """Loss and validation accuracy over time, as a data URI."""
    from matplotlib.figure import Figure

    from fclip.training import read_history

    history = read_history(out)
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [h for h in history if "loss" in h]
    left.plot([h["minutes"] for h in losses], [h["loss"] for h in losses], ".-", color="#444")
    left.set(xlabel="minutes", ylabel="training loss")
    scores = [h for h in history if "text_sfa" in h]
    for key, label, style in (("text_sfa", "text", "o-"), ("attribute_sfa", "attribute", "s-")):
        right.plot([h["minutes"] for h in scores], [h[key] for h in scores], style, label=label)
    right.set(xlabel="minutes", ylabel="surfacing accuracy", ylim=(0, 1.02))
    right.legend(loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return data_uri(stream.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.demo")


if __name__ == "__main__":
    main()
