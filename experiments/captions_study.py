"""Attribute captions are few and repeat: what should a picture be drawn to, and how should captions be written?

    python -m experiments.captions_study drawn --pictures 15000
    python -m experiments.captions_study catalogue --pictures 30000 --seeds 0,1,2

Every loss trains on as many pictures, once with whole sentences and once with random subsets of the attributes, with
one learning rate for all; what is measured are the weights at the end, with whole sentences. Leaves OUT/table.md,
OUT/results.json (the table's numbers), OUT/scores.png and OUT/results (what was measured). A killed study goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.study import measured, pictures_of, study_preset, train_one, with_options
from fclip.errors import UserError, nearest, run_program

if TYPE_CHECKING:
    from fclip.config import Preset

LOSSES = {
    "clip": ["loss.positives=clip", "loss.surfacing=0"],
    "equal": ["loss.positives=equal", "loss.surfacing=0"],
    "compatible": ["loss.positives=compatible", "loss.surfacing=0"],
    "overlap": ["loss.positives=overlap", "loss.surfacing=0"],
    "compatible+surfacing": ["loss.positives=compatible", "loss.surfacing=1", "loss.negatives=32"],
}
CAPTIONS = {
    "whole": ["captions.paraphrases=[]", "captions.drop=0"],
    "subsets": ["captions.paraphrases=[]", "captions.drop=0.3", "captions.whole=0.5"],
}
TITLES = {"whole": "whole sentences", "subsets": "random subsets of the attributes"}
Results = dict[str, dict[str, list[Any]]]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def study(
    data: Annotated[str, typer.Argument(help="drawn or catalogue: presets/study/DATA_plain.yaml is what is trained.")],
    pictures: Annotated[int, typer.Option(help="Training pictures per run, rounded to whole epochs.")] = 15_000,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: runs/captions_DATA.")] = None,
    losses: Annotated[
        str, typer.Option(help="Which, with commas; the first is what the others are held against.")
    ] = ",".join(LOSSES),
    captions: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join(CAPTIONS),
    seeds: Annotated[str, typer.Option(help="Of the runs, with commas; scores are means over them.")] = "0",
    split: Annotated[str, typer.Option(help="What is tested.")] = "val",
    override: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of all runs.")] = None,
) -> None:
    """Train every loss on as many pictures, with whole sentences and with subsets of the attributes, and compare.

    \b
    python -m experiments.captions_study drawn --pictures 15000
    """
    from experiments.captions_study_report import write_report
    from fclip.machine import tune_cpu

    tune_cpu()
    target = out or Path(f"runs/captions_{data}")
    chosen, written = choices(losses, LOSSES, "--losses"), choices(captions, CAPTIONS, "--captions")
    base = study_preset(f"{data}_plain", target, override or [])
    base = replace(base, epochs=epochs_for(pictures, len(pictures_of(base, base.data.train_split))))
    results = run_all(base, chosen, written, numbers(seeds), split, target)
    settings = {"data": data, "epochs": base.epochs, "batch": base.batch_size, "seeds": seeds, "split": split}
    write_report(target, results, settings)
    print((target / "table.md").read_text())


def choices(words: str, known: Mapping[str, Any], option: str) -> list[str]:
    """Names with commas between them.

    Raises:
        UserError: one that is not known.
    """
    names = words.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{option}: no {name!r}; {nearest(name, list(known))}")
    return names


def numbers(words: str) -> list[int]:
    """Seeds with commas between them.

    Raises:
        UserError: something that is no number.
    """
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"expected --seeds as numbers with commas, e.g. 0,1,2, got {words!r}") from None


def epochs_for(pictures: int, rows: int) -> int:
    """Whole epochs that come nearest to so many pictures, at least one."""
    return max(1, round(pictures / rows))


def run_all(
    base: Preset, losses: Sequence[str], captions: Sequence[str], seeds: Sequence[int], split: str, out: Path
) -> Results:
    """Captions → loss → a result of `eval.surfacing` for each seed."""
    results: Results = {written: {loss: [] for loss in losses} for written in captions}
    tested = pictures_of(base, split)
    for seed in seeds:  # a whole comparison first, then the next
        for written in captions:
            for loss in losses:
                name = f"{written}-{loss}-{seed}"
                preset = replace(with_options(base, [*LOSSES[loss], *CAPTIONS[written]]), seed=seed)
                train_one(preset, out / name)
                results[written][loss].append(measured(out / name, tested, out / "results" / f"{name}.json"))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.captions_study")


if __name__ == "__main__":
    main()
