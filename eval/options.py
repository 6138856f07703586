"""Options that commands of `python -m eval` share, what gives a command those of `Settings`, and the closing line.

@with_settings(but=("untuned",))
def probe(checkpoint: Checkpoint, catalogue: Catalogues, settings: Settings) -> None: …
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from eval.settings import Settings

Checkpoint = Annotated[Path, typer.Option(help="A checkpoint's folder, or a name of `fclip models`.")]
Catalogues = Annotated[list[str], typer.Option(metavar="PATH", help="A catalogue; repeat it for several.")]
Split = Annotated[str, typer.Option(help="train, val, test, query, gallery or all.")]
Json = Annotated[Path | None, typer.Option("--json", help="Where the result goes; `compare` reads it.")]
Baselines = Annotated[bool, typer.Option(help="Measure what needs no model too: chance, the most frequent, pixels.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of the products for the 95 % intervals; 0: none.")]
Format = Annotated[str | None, typer.Option("--format", help="Of the catalogues; recognised when not given.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
Results = Annotated[
    list[str],
    typer.Argument(metavar="[NAME=]FILE…", help="Results of `--json`; a name given twice: runs of one model."),
]
Markdown = Annotated[Path | None, typer.Option(help="Write the tables here as Markdown.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the tables here as CSV, a line for each cell.")]
Latex = Annotated[Path | None, typer.Option(help="Write the tables here for LaTeX (booktabs).")]
Against = Annotated[str | None, typer.Option(metavar="NAME", help="Tell differences to this model, not to the first.")]
GroupBy = Annotated[str | None, typer.Option(metavar="name", help="Results of one model name are its training runs.")]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where embeddings are kept. [default: $FCLIP_CACHE or ~/.cache/fclip/embeddings]"),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Embed anew and keep nothing.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures embedded at once.")]
Untuned = Annotated[str | None, typer.Option(metavar="NAME", help="A model to stand beside, such as fashionclip.")]
Ks = Annotated[list[int] | None, typer.Option("--k", min=1, help="Ranks to score at; repeat it for several.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="An attribute group; repeat it. None: all.")]
AnyCheckpoint = Annotated[Path | None, typer.Option(help="A checkpoint's folder, or a name of `fclip models`.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="A sentence with {} for the value, averaged; else the captions'."),
]


_SHARED: dict[str, Any] = {
    "out": Annotated[Path | None, typer.Option("--json", help="Where the result goes; `compare` reads it.")],
    "baselines": Baselines,
    "untuned": Untuned,
    "catalogue_format": Format,
    "bootstrap": Bootstrap,
    "seed": Seed,
    "batch_size": BatchSize,
}


def with_settings(but: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """In place of a command's parameter `settings` come the options of `Settings`, and their defaults.

    Args:
        but: those that the command does not know.
    """
    shared = {name: kind for name, kind in _SHARED.items() if name not in but}

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]

        @wraps(command)
        def run(**given: Any) -> None:
            told = {name: given.pop(name) for name in shared}
            command(**given, settings=Settings(**told, progress=sys.stderr.isatty()))

        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(n, keyword, default=getattr(Settings, n), annotation=k) for n, k in shared.items()]
        mine = [p.replace(kind=keyword) for p in own if p.name != "settings"]
        run.__signature__ = inspect.Signature([*mine, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*mine, *added)}
        del run.__wrapped__  # type: ignore[attr-defined]  # typer would look through
        return run

    return decorated


def written(*paths: str | Path | None) -> None:
    """Says which files were written."""
    for path in paths:
        if path is not None:
            print(f"written: {path}")
