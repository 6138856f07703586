"""`python -m eval backbones`: image towers side by side. Options in, tables out.

python -m eval backbones --catalogue data/catalogue --split val --model image:resnet50+max --model image:vgg16+max
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eval.options import Against, Catalogues, Csv, Groups, Ks, Latex, Markdown, Split, with_settings, written
from eval.settings import Settings


@with_settings(but=("untuned",))
def backbones(
    catalogue: Catalogues,
    model: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]MODEL", help="image:TOWER+POOLING, a checkpoint, a published name; repeat it."),
    ],
    split: Split = "val",
    k: Ks = None,
    category: Annotated[str | None, typer.Option(help="Column or attribute group of the categories.")] = None,
    group: Groups = None,
    against: Against = None,
    speed: Annotated[bool, typer.Option(help="Measure images/s of every tower.")] = True,
    markdown: Markdown = None,
    csv: Csv = None,
    latex: Latex = None,
    *,
    settings: Settings,
) -> None:
    """Image towers and poolings compared: products found, category and attributes of the neighbours, speed.

    \b
    python -m eval backbones --catalogue data/catalogue --model image:resnet50+max --model image:resnet50+avg
    python -m eval backbones --catalogue data/catalogue --model mine=runs/mine/best --model image:vgg16+max

    Every picture asks all others. agreement@k: the share of the k nearest pictures of other products with its value;
    MAP@k of category: the mean of that share at 1 … k; of product: average precision cut at k. Ties count against.
    """
    from rich.console import Console

    from eval.backbone_tables import notes_of, tables_of
    from eval.backbones import run_backbones
    from eval.report import rich_table, write_tables

    asked: dict[str, Any] = {"ks": k or (), "category": category, "groups": group or (), "against": against}
    result = run_backbones(model, catalogue, split, settings, **asked, speed=speed)
    tables, notes = tables_of(result), notes_of(result)
    write_tables(tables, notes, markdown, csv, latex)
    console = Console()
    for table in tables:
        console.print(rich_table(table), crop=False)
    print("\n".join(notes))
    written(settings.out, markdown, csv, latex)
