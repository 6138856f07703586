"""Commands of `python -m eval`: retrieval, zero-shot, probe, in-shop, consumer-to-shop. Options in, tables out.

python -m eval retrieval --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from eval.options import (
    Baselines,
    BatchSize,
    Bootstrap,
    Catalogues,
    Checkpoint,
    Format,
    Groups,
    Json,
    Ks,
    Seed,
    Split,
    Untuned,
    written,
)


def retrieval(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    protocol: Annotated[str, typer.Option(help="own, marqo or clip-benchmark.")] = "own",
    task: Annotated[list[str] | None, typer.Option(help="A task; repeat it. None: all that can be asked.")] = None,
    k: Ks = None,
    category: Annotated[str | None, typer.Option(help="Column or attribute group of the categories.")] = None,
    image_weight: Annotated[float, typer.Option(help="Of a product's pictures against its caption.")] = 0.9,
    untuned: Untuned = None,
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Texts, pictures, categories and products that find each other.

    \b
    python -m eval retrieval --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    python -m eval retrieval --checkpoint fashionclip --catalogue data/catalogue --protocol marqo --json marqo.json

    hit@k: is something relevant among the k best? recall@k: the share of the relevant that is. Ties count against the
    model. Tasks: text_to_image, image_to_text, image_to_image, category_to_product.
    """
    from eval.protocol import show
    from eval.retrieval import remarks, run_retrieval, tables

    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size, "untuned": untuned}
    settings |= {"tasks": task or (), "ks": k or (), "category": category, "image_weight": image_weight}
    settings |= {"protocol": protocol, "catalogue_format": catalogue_format, "progress": sys.stderr.isatty()}
    result = run_retrieval(checkpoint, catalogue, split, json, baselines, **settings)
    show(result, tables(result), remarks(result))
    written(json)


def zero_shot(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    group: Groups = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="GROUP=TEXT", help="A template with {value}; repeat it.")
    ] = None,
    untuned: Untuned = None,
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Attributes by their nearest prompts, without training on them.

    \b
    python -m eval zero-shot --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    python -m eval zero-shot --checkpoint fashionclip --catalogue data/catalogue --prompt "sleeve=a top with {value}"
    """
    from eval.attribute_groups import remarks, tables
    from eval.protocol import show
    from eval.zero_shot import run_zero_shot

    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size, "untuned": untuned}
    settings |= {"groups": group or (), "templates": prompt or (), "catalogue_format": catalogue_format}
    result = run_zero_shot(checkpoint, catalogue, split, json, baselines, **settings, progress=sys.stderr.isatty())
    show(result, tables(result, [""]), remarks(result))
    written(json)


def probe(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    group: Groups = None,
    untuned: Untuned = None,
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Attributes by a linear probe and by nearest neighbours on frozen embeddings, trained on the train split.

    \b
    python -m eval probe --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    """
    from eval.attribute_groups import remarks, tables
    from eval.probe import NEIGHBOURS, run_probe
    from eval.protocol import show

    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size, "untuned": untuned}
    settings |= {"groups": group or (), "catalogue_format": catalogue_format, "progress": sys.stderr.isatty()}
    result = run_probe(checkpoint, catalogue, split, json, baselines, **settings)
    show(result, tables(result, ["linear:", *[f"knn@{k}:" for k in NEIGHBOURS]]), remarks(result))
    written(json)


def inshop(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    k: Ks = None,
    untuned: Untuned = None,
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """DeepFashion's In-shop retrieval: pictures of `query` find their product in `gallery`.

    \b
    python -m eval inshop --checkpoint runs/plain --catalogue data/inshop --untuned fashionclip --json inshop.json
    """
    from eval.image_retrieval import KS, Settings, remarks, tables
    from eval.inshop import run_inshop
    from eval.protocol import show

    ks = tuple(sorted({*(k or KS)}))
    settings = Settings(ks, baselines, bootstrap, seed, batch_size, sys.stderr.isatty())
    result = run_inshop(
        checkpoint, catalogue, json, untuned=untuned, catalogue_format=catalogue_format, settings=settings
    )
    show(result, tables(result), remarks(result))
    written(json)


def consumer2shop(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Annotated[str, typer.Option(help="Whose photographs ask: test or val.")] = "test",
    k: Ks = None,
    untuned: Untuned = None,
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """DeepFashion's Consumer-to-shop retrieval: customers' photographs find the product among the shops' pictures.

    \b
    python -m eval consumer2shop --checkpoint runs/plain --catalogue data/consumer2shop --json consumer2shop.json
    """
    from eval.consumer2shop import run_consumer2shop
    from eval.image_retrieval import KS, Settings, remarks, tables
    from eval.protocol import show

    ks = tuple(sorted({*(k or KS)}))
    settings = Settings(ks, baselines, bootstrap, seed, batch_size, sys.stderr.isatty())
    result = run_consumer2shop(
        checkpoint, catalogue, split, json, untuned=untuned, catalogue_format=catalogue_format, settings=settings
    )
    show(result, tables(result), remarks(result))
    written(json)


RETRIEVAL_COMMANDS = (retrieval, zero_shot, probe, inshop, consumer2shop)
