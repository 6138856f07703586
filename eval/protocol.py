"""What protocols do alike around their measuring: the untuned model, errors that name a model, the note, the table.

with errors_of(subject.model.name):
    found = top_k(queries, gallery, 10, relevance)
result["command"] = note(result, subject, {"seed": 0}, out)
show(result, {"": {"hit@1": "hit@1"}})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.subject import Subject, command
from fclip.errors import UserError

if TYPE_CHECKING:
    from fclip.model import Model

BASELINES = {
    "chance": "chance",
    "most_frequent": "most frequent",
    "pixels": "16x16 pixels",
    "histogram": "colours",
    "single_prompt": "one prompt",
    "untuned": "untuned",
}
"""Name in the JSON → in tables, in their order."""


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """A metric's complaint about embeddings (not finite, all zero) becomes a user's error that names the model."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"model {name}: {error}") from None


def open_untuned(name: str | None, subject: Subject) -> Model | None:
    """The model to stand beside, where the measured one runs.

    Raises:
        UserError: no such model.
    """
    if name is None:
        return None
    from fclip.catalogue.kinds import word_groups
    from fclip.pretrained import open_model

    return open_model(name, word_groups(subject.whole)).to(subject.model.device)


def train_rows(subject: Subject) -> list[int]:
    """The rows of the whole catalogue that are of its train split."""
    return [row for row, split in enumerate(subject.whole["split"][:]) if split == "train"]


def note(
    result: dict[str, Any], subject: Subject, options: Mapping[str, Any], out: str | Path | None, split: bool = True
) -> None:
    """Adds the line that measures the same again, and writes the JSON where it is wanted.

    Args:
        options: the command's options beside checkpoint, catalogue and split.
        out: the file; its place was checked before measuring.
        split: whether the command has that option.
    """
    from eval.subject import write_result

    source: dict[str, Any] = {"checkpoint": subject.checkpoint, "catalogue": subject.catalogue}
    source |= {"split": subject.split} if split else {}
    result["command"] = command(str(result["protocol"]), source | dict(options) | {"json": out})
    write_result(out, result)


def show(result: Mapping[str, Any], tables: Mapping[str, Mapping[str, str]], remarks: Sequence[str] = ()) -> None:
    """Prints scores beside their baselines.

    Args:
        result: with "metrics" and "baselines", whose "left_out" says why one is not there.
        tables: title → {score's name: as shown}; scores that were not measured are passed over.
        remarks: lines below.
    """
    from rich.console import Console

    from eval.report import Cell, Table, rich_table, score

    console, baselines = Console(), result.get("baselines", {})
    for title, names in tables.items():
        names = {name: shown for name, shown in names.items() if name in result["metrics"]}
        beside = {k: shown for k, shown in BASELINES.items() if names.keys() & baselines.get(k, {}).keys()}
        columns = [result["metrics"], *[baselines[key] for key in beside]]
        rows = [[Cell(shown), *[score(column.get(name)) for column in columns]] for name, shown in names.items()]
        if rows:
            headers = ["", result["model"]["name"], *beside.values()]
            console.print(rich_table(Table(title, headers, rows)), crop=False)
    left_out = [f"no {BASELINES.get(key, key)} baseline: {why}" for key, why in baselines.get("left_out", {}).items()]
    print("\n".join([*remarks, *left_out]))
