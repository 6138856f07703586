"""Commands of `python -m eval`: retrieval, zero-shot, probe, in-shop, consumer-to-shop. Options in, tables out.

python -m eval retrieval --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eval.options import Catalogues, Checkpoint, Groups, Ks, Split, with_settings, written
from eval.settings import Settings


@with_settings()
def retrieval(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    protocol: Annotated[str, typer.Option(help="own, marqo or clip-benchmark.")] = "own",
    task: Annotated[list[str] | None, typer.Option(help="A task; repeat it. None: all that can be asked.")] = None,
    k: Ks = None,
    category: Annotated[str | None, typer.Option(help="Column or attribute group of the categories.")] = None,
    image_weight: Annotated[float, typer.Option(help="Of a product's pictures against its caption.")] = 0.9,
    *,
    settings: Settings,
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

    asked: dict[str, Any] = {"protocol": protocol, "tasks": task or (), "ks": k or (), "category": category}
    result = run_retrieval(checkpoint, catalogue, split, settings, **asked, image_weight=image_weight)
    show(result, tables(result), remarks(result))
    written(settings.out)


@with_settings()
def zero_shot(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    group: Groups = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="GROUP=TEXT", help="A template with {value}; repeat it.")
    ] = None,
    *,
    settings: Settings,
) -> None:
    """Attributes by their nearest prompts, without training on them.

    \b
    python -m eval zero-shot --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    python -m eval zero-shot --checkpoint fashionclip --catalogue data/catalogue --prompt "sleeve=a top with {value}"
    """
    from eval.attribute_groups import remarks, tables
    from eval.protocol import show
    from eval.zero_shot import run_zero_shot

    result = run_zero_shot(checkpoint, catalogue, split, settings, groups=group or (), templates=prompt or ())
    show(result, tables(result, [""]), remarks(result))
    written(settings.out)


@with_settings()
def probe(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "test",
    group: Groups = None,
    *,
    settings: Settings,
) -> None:
    """Attributes by a linear probe and by nearest neighbours on frozen embeddings, trained on the train split.

    \b
    python -m eval probe --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    """
    from eval.attribute_groups import remarks, tables
    from eval.probe import NEIGHBOURS, run_probe
    from eval.protocol import show

    result = run_probe(checkpoint, catalogue, split, settings, groups=group or ())
    show(result, tables(result, ["linear:", *[f"knn@{k}:" for k in NEIGHBOURS]]), remarks(result))
    written(settings.out)


@with_settings()
def inshop(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    k: Ks = None,
    *,
    settings: Settings,
) -> None:
    """DeepFashion's In-shop retrieval: pictures of `query` find their product in `gallery`.

    \b
    python -m eval inshop --checkpoint runs/plain --catalogue data/inshop --untuned fashionclip --json inshop.json
    """
    from eval.image_retrieval import KS, remarks, tables
    from eval.inshop import run_inshop
    from eval.protocol import show

    result = run_inshop(checkpoint, catalogue, settings, ks=k or KS)
    show(result, tables(result), remarks(result))
    written(settings.out)


@with_settings()
def consumer2shop(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Annotated[str, typer.Option(help="Whose photographs ask: test or val.")] = "test",
    k: Ks = None,
    *,
    settings: Settings,
) -> None:
    """DeepFashion's Consumer-to-shop retrieval: customers' photographs find the product among the shops' pictures.

    \b
    python -m eval consumer2shop --checkpoint runs/plain --catalogue data/consumer2shop --json consumer2shop.json
    """
    from eval.consumer2shop import run_consumer2shop
    from eval.image_retrieval import KS, remarks, tables
    from eval.protocol import show

    result = run_consumer2shop(checkpoint, catalogue, split, settings, ks=k or KS)
    show(result, tables(result), remarks(result))
    written(settings.out)


RETRIEVAL_COMMANDS = (retrieval, zero_shot, probe, inshop, consumer2shop)
