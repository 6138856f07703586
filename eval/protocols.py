"""Commands of `python -m eval`: robustness, cross-domain, attributes, landmarks, leaks. Options in, tables out.

python -m eval robustness --checkpoint runs/plain --catalogue data/catalogue --figure curves.png
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.options import (
    AnyCheckpoint,
    BatchSize,
    Bootstrap,
    Catalogues,
    Checkpoint,
    Format,
    Json,
    Prompts,
    Seed,
    Split,
    with_settings,
    written,
)
from eval.settings import Settings


def robustness(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    only: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="A corruption or shift; repeat it. All when not given.")
    ] = None,
    size_px: Annotated[int, typer.Option(min=8, help="Larger pictures are reduced to this shorter side first.")] = 224,
    json: Json = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves here (.png, .pdf, .svg).")] = None,
    bootstrap: Bootstrap = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the corruptions and resamples.")] = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Surfacing accuracy against severity, of seven corruptions and five geometric shifts.

    \b
    python -m eval robustness --checkpoint runs/plain --catalogue data/catalogue --figure curves.png
    python -m eval robustness --checkpoint runs/plain --catalogue data/catalogue --only rotation --only crop

    noise, blur, jpeg, brightness, contrast, pixelate, occlusion; shift, scale, rotation, crop, perspective. The same
    pictures for every model and the same seed.
    """
    from eval.robustness import run_robustness

    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size}
    settings |= {"only": only or (), "size_px": size_px, "out": json, "figure": figure}
    result = run_robustness(
        checkpoint, catalogue, split, **settings, catalogue_format=catalogue_format, progress=sys.stderr.isatty()
    )
    for key, shown in (("text_sfa", "Text SFA"), ("attribute_sfa", "Attr. SFA")):
        rows = {kind: [*(p[key] for p in points), result["means"][kind][key], points[-1][f"{key}_change"]]
                for kind, points in result["curves"].items()}  # fmt: skip
        headers = ["as is", *map(str, range(1, 6)), "mean", "at 5 − as is"]
        _print(f"{shown} against severity: {_about(result)}", headers, rows, short=True)
    family = [name for name in ("corruptions", "shifts") if f"{name}_text_sfa" in result["metrics"]]
    rows = {name: [result["metrics"][f"{before}{name}"] for before in ("", *(f"{f}_" for f in family))]
            + [result["baselines"]["chance"].get(name)] for name in ("text_sfa", "attribute_sfa")}  # fmt: skip
    _print("Means over kinds and severities", ["as is", *family, "chance"], rows)
    written(json, figure)


@with_settings(but=("untuned",))
def cross_domain(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    other: Annotated[str, typer.Option(metavar="PATH", help="The catalogue of another kind of pictures.")],
    mapping: Annotated[Path, typer.Option(help="YAML: our group, and which of their values is which of ours.")],
    split: Split = "test",
    other_split: Annotated[str, typer.Option(help="The split of the other catalogue.")] = "test",
    other_map: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="Columns of the other table, as `fclip catalogue`.")
    ] = None,
    prompt: Prompts = None,
    *,
    settings: Settings,
) -> None:
    """What a model keeps on pictures of another kind: zero-shot accuracy and surfacing accuracy on the same classes.

    \b
    python -m eval cross-domain --checkpoint runs/mine/best --catalogue data/catalogue \\
      --other data/clothing/metadata.csv --other-map item=sender_id --mapping classes.yaml

    \b
    classes.yaml:  articleType:
                     from: label
                     values: {T-Shirt: Tshirts, Pants: Trousers}
    """
    from eval.cross_domain import run_cross_domain

    asked: dict[str, Any] = {"other_columns": other_map or (), "prompts": prompt or ()}
    result = run_cross_domain(checkpoint, catalogue, split, other, mapping, other_split, settings, **asked)
    measured, counts = result["metrics"], result["counts"]
    chance = result.get("baselines", {}).get("other", {})
    rows = {name: [measured["own"][name], measured["other"][name], result["gap"][name],
                   *(chance.get(key, {}).get(name) for key in ("chance", "most_frequent"))]
            for name in measured["own"]}  # fmt: skip
    columns = [f"{name} ({counts[name]['pictures']} pictures)" for name in ("own", "other")]
    _print(f"{result['model']['name']} from {split} to the other kind",
           [*columns, "own − other", "chance there", "most frequent there"], rows)  # fmt: skip
    for group, entries in result["per_class"].items():
        single = {name: [{"value": e["own"]}, {"value": e["other"]}, e["own_pictures"], e["other_pictures"]]
                  for name, e in zip(result["classes"][group], entries, strict=True)}  # fmt: skip
        _print(f"{group}, accuracy of each class", ["own", "other", "own pictures", "other pictures"], single)
    for group, values in result["unmapped"].items():
        if values:
            print(f"not mapped, left out: {group}: {', '.join(f'{value} ({n})' for value, n in values.items())}")
    written(settings.out)


@with_settings(but=("untuned",))
def attributes(
    catalogue: Catalogues,
    checkpoint: AnyCheckpoint = None,
    predictions: Annotated[
        Path | None, typer.Option(help="In place of a checkpoint: scores of any model, .csv, .json or .npz.")
    ] = None,
    split: Split = "test",
    group: Annotated[list[str] | None, typer.Option(help="An attribute group; repeat it. All when not given.")] = None,
    prompt: Prompts = None,
    k: Annotated[list[int], typer.Option(min=1, help="How many values are taken; repeat it.")] = [3, 5],  # noqa: B006
    *,
    settings: Settings,
) -> None:
    """DeepFashion's category and attribute prediction: top-k accuracy and top-k recall by group.

    \b
    python -m eval attributes --checkpoint fashionclip --catalogue data/deepfashion --json clip.json
    python -m eval attributes --predictions fashionnet.csv --catalogue data/deepfashion --json theirs.json

    fashionnet.csv: id,category:Blouse,…,texture:floral,… and one row a picture. The published "all" columns are one of
    three: all_joint (one ranking of all), all_pooled (by group, hits summed), all_mean (mean of the groups).
    """
    from eval.attributes import run_attributes

    asked: dict[str, Any] = {"groups": group or (), "prompts": prompt or (), "ks": k}
    result = run_attributes(catalogue, split, settings, checkpoint=checkpoint, predictions=predictions, **asked)
    found = {key: value for key, value in result.get("baselines", {}).items() if key != "left_out"}
    rows = {name: [value, *(of.get(name) for of in found.values())] for name, value in result["metrics"].items()}
    _print(_about(result), [result["model"]["name"], *(name.replace("_", " ") for name in found)], rows)
    for at, groups in result["too_small"].items():
        print(f"no {at} of {', '.join(groups)}: fewer values than that")
    if unseen := result["never_seen"]:
        more = ", …" * (len(unseen) > 5)
        print(f"{len(unseen)} values of this split are never seen in training: {', '.join(unseen[:5])}{more}")
    _remarks(result)
    written(settings.out)


def landmarks(
    predictions: Annotated[Path, typer.Option(help="Landmarks: .csv or .json of id, landmark, x, y in pixels.")],
    catalogue: Catalogues,
    split: Split = "test",
    scale: Annotated[str, typer.Option(help="What distances are divided by: picture or box.")] = "picture",
    json: Json = None,
    baselines: Annotated[bool, typer.Option(help="Measure the mean positions of the train split too.")] = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    catalogue_format: Format = None,
) -> None:
    """Fashion landmark detection: normalised error and PDJ of predicted points; visible points only.

    \b
    python -m eval landmarks --predictions dfa.csv --catalogue data/landmarks --scale box --json dfa.json
    """
    from eval.landmarks import run_landmarks

    settings: dict[str, Any] = {"scale": scale, "bootstrap": bootstrap, "seed": seed, "out": json}
    result = run_landmarks(
        predictions, catalogue, split, **settings, baselines=baselines, catalogue_format=catalogue_format
    )
    mean = result.get("baselines", {}).get("mean_position", {})
    rows = {name: [value, mean.get(name)] for name, value in result["metrics"].items()}
    _print(_about(result), [result["model"]["name"], "mean position"], rows)
    single = {name: list(of.values()) for name, of in result["landmarks"].items()}
    _print(f"By landmark, distances in {scale}s", list(next(iter(result["landmarks"].values()))), single)
    if result["counts"]["without_landmarks"]:
        print(f"{result['counts']['without_landmarks']} pictures without landmarks or {scale} were left out")
    written(json)


def leaks(
    catalogue: Catalogues,
    checkpoint: AnyCheckpoint = None,
    bits: Annotated[int, typer.Option(min=0, max=15, help="Hashes that differ in so many of 256 bits are near.")] = 8,
    cosine: Annotated[float, typer.Option(help="Embeddings of at least this cosine are similar.")] = 0.98,
    json: Json = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw the worst pairs here (.png).")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when anything is found.")] = False,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """What splits share: products, identical and nearly equal pictures, and their conflicting attributes.

    \b
    python -m eval leaks --catalogue data/catalogue --json leaks.json --sheet leaks.png
    python -m eval leaks --catalogue train/ --catalogue test/ --checkpoint fashionclip --strict
    """
    from eval.leaks import is_found, run_leaks

    settings: dict[str, Any] = {"checkpoint": checkpoint, "bits": bits, "cosine": cosine, "out": json, "sheet": sheet}
    result = run_leaks(
        catalogue, **settings, catalogue_format=catalogue_format, batch_size=batch_size, progress=sys.stderr.isatty()
    )
    headers = list(next(iter(result["found"].values())))
    rows = {between: list(found.values()) for between, found in result["found"].items()}
    counts = result["counts"]
    splits = ", ".join(f"{name} {n}" for name, n in counts["splits"].items())
    _print(f"Shared between the splits of {counts['pictures']} pictures ({splits})", headers, rows)
    _remarks(result)
    written(json, sheet)
    if strict and is_found(result):
        raise SystemExit(1)


COMMANDS = (robustness, cross_domain, attributes, landmarks, leaks)


def _print(title: str, headers: Sequence[str], rows: Mapping[str, Sequence[Any]], short: bool = False) -> None:
    """A table of scores and counts; `short`: scores without their intervals."""
    from rich.console import Console

    from eval.report import Cell, Table, rich_table, score

    def cell(value: Any) -> Cell:
        if isinstance(value, int):
            return Cell(str(value))
        return score({"value": value["value"]} if short and value else value)

    table = Table(title, ["", *headers])
    table.rows.extend([Cell(name), *map(cell, values)] for name, values in rows.items())
    Console().print(rich_table(table), crop=False)


def _about(result: Mapping[str, Any]) -> str:
    counts = result["counts"]
    return f"{result['model']['name']} on {counts['pictures']} pictures, {counts['products']} products"


def _remarks(result: Mapping[str, Any]) -> None:
    if number := result["counts"]["unreadable"]:
        print(f"{number} pictures could not be read; `skipped` in --json FILE names them")
