"""The main job from end to end, offline, on drawn garments: what `make demo` runs.

    python -m experiments.demo --out runs/demo

Draws a catalogue, measures the untrained model, trains, measures again on the test split, indexes, asks one question
of words and a picture, and leaves a self-contained page, OUT/report.html.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HERE = Path(__file__).parent
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made; replaced.")] = Path("runs/demo"),
    preset: Annotated[Path, typer.Option(help="What is trained.")] = HERE / "presets" / "drawn.yaml",
    override: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the preset; may be repeated.")] = None,
) -> None:
    """Runs the main job and writes the report."""
    import shutil

    from eval.compare import compare
    from eval.surfacing import run_surfacing
    from experiments.train import prepare, run_prepared
    from fclip.catalogue import open_catalogue, save_catalogue
    from fclip.checkpoint import load_checkpoint, save_checkpoint
    from fclip.config import load_preset
    from fclip.index import build_index
    from fclip.machine import tune_cpu

    began = time.monotonic()
    tune_cpu()
    settings = load_preset(preset, [*(override or []), f"out={out}"])
    shutil.rmtree(out, ignore_errors=True)

    _step(1, "drawing garments")
    garments = out / "catalogue"
    save_catalogue(open_catalogue(settings.data.catalogue), garments)
    settings = replace(settings, data=replace(settings.data, catalogue=(str(garments),)))
    catalogue = open_catalogue(garments)

    _step(2, "measuring the untrained model")
    prepared = prepare(settings)
    save_checkpoint(prepared.model, out / "untrained")
    before = run_surfacing(out / "untrained", garments, "test", out / "untrained.json", baselines=True, progress=False)

    _step(3, "training")
    run_prepared(prepared)

    _step(4, "measuring the trained model")
    after = run_surfacing(out / "best", garments, "test", out / "trained.json", baselines=True, progress=False)
    files = [out / "untrained.json", out / "trained.json"]
    tables, notes = compare(files, out / "table.md", out / "pca.png")

    _step(5, "indexing the test garments and asking")
    from fclip.catalogue.schema import select_split

    test = select_split(catalogue, "test")
    index = build_index(out / "index", load_checkpoint(out / "best"), test, str(out / "best"))
    questions = _ask(index, test, out)
    curve = _curve(out)
    seconds = time.monotonic() - began
    about = {"minutes": seconds / 60, "pictures": len(catalogue), "examples": _examples(test), "pca": out / "pca.png"}
    page = _page(tables=tables, notes=notes, before=before, after=after, questions=questions, curve=curve, **about)
    from fclip.files import write_text

    write_text(out / "report.html", page)
    print(f"done in {seconds / 60:.1f} minutes; open {out / 'report.html'}")


def _step(number: int, what: str) -> None:
    print(f"[{number}/5] {what}", file=sys.stderr, flush=True)


def _ask(index: Any, test: Dataset, out: Path) -> list[dict[str, Any]]:
    """Words alone, a picture alone, and both: a garment "like this, but …"."""
    from fclip.contact_sheet import contact_sheet, save_contact_sheet
    from fclip.recommend import Recommender

    recommender = Recommender(index, _model_of(index))
    row = next(i for i, a in enumerate(test["attributes"][:]) if a["category"] == "dress" and a["colour"] != "red")
    photo = test[row]["image"]
    asked: list[tuple[list[str], list[Any], dict[str, str]]] = [
        (["red striped dress"], [], {}),
        (["red dress"], [photo], {}),
        (["striped"], [photo], {"category": "t-shirt"}),
    ]
    questions = []
    for number, (texts, images, where) in enumerate(asked, start=1):
        answers = recommender.ask(texts, images, where, k=4)
        shown = ", ".join(f"{k}={v}" for k, v in where.items())
        sheet = contact_sheet(answers, texts, images, shown)
        save_contact_sheet(out / f"question{number}.png", sheet)
        questions.append({"texts": texts, "where": shown, "sheet": _png(sheet), "photo": bool(images)})
    return questions


def _model_of(index: Any) -> Any:
    from fclip.checkpoint import load_checkpoint

    return load_checkpoint(index.about["checkpoint"])


def _examples(test: Dataset, number: int = 12) -> str:
    """Some garments side by side, as a data URI."""
    from PIL import Image

    from fclip.images import decode

    pictures = [decode(cell) for cell in test.select(range(0, 2 * number, 2))["image"]]
    strip = Image.new("RGB", (sum(p.width for p in pictures[:6]), 2 * pictures[0].height))
    for place, picture in enumerate(pictures):
        strip.paste(picture, ((place % 6) * picture.width, (place // 6) * picture.height))
    return _png(strip)


def _curve(out: Path) -> str:
    """Loss and validation accuracy over time, as a data URI."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from fclip.training import read_history

    history = read_history(out)
    losses = [(h["minutes"], h["loss"]) for h in history if "loss" in h]
    scores = [(h["minutes"], h["text_sfa"], h["attribute_sfa"]) for h in history if "text_sfa" in h]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(*zip(*losses, strict=True), color="#444")
    left.set(xlabel="minutes", ylabel="training loss")
    minutes, text, attribute = zip(*scores, strict=True)
    right.plot(minutes, text, "o-", label="text SFA")
    right.plot(minutes, attribute, "s-", label="attribute SFA")
    right.set(xlabel="minutes", ylabel="validation split", ylim=(0, 1))
    right.legend()
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    pyplot.close(figure)
    return _uri(stream.getvalue())


def _png(picture: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return _uri(stream.getvalue())


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _page(pca: Path, **values: Any) -> str:
    """The report, with every picture inside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("demo.html.j2").render(pca=_uri(pca.read_bytes()), **values)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; a user's mistake is one line and exit code 2."""
    try:
        app(args=list(argv) if argv is not None else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
