"""Image towers side by side: what do the neighbours of a picture share with it, and what does finding them cost?

    python -m eval backbones --catalogue data/catalogue --split val --model image:resnet50+max --model image:vgg16+max

Style Matcher (section 7.3) compares VGG16, ResNet50 and Inception by MAP and an accuracy that it does not define. Here
every picture of the split asks all others by cosine, whatever made the vectors, CLIP's image side as well.
`eval.neighbours` defines the scores.

Intervals and differences resample products; p-values are Holm's over the towers. Baselines: chance (exact), 16x16
pixels, colour histograms. Speed is of the tower alone on pictures that are ready, the fastest of some batches; it
depends on the machine, which is why towers are measured in one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import known_mean
from eval.metrics.uncertainty import ratio_samples
from eval.neighbours import Labels, Values, chance, check, neighbours, read_labels
from eval.pairs import Contender, differences, winners
from eval.protocol import errors_of
from eval.retrieval import looks
from eval.scores import LEVEL
from eval.settings import DEFAULTS, Settings
from eval.subject import SCHEMA, command, embed_images, mean_scores, write_result
from fclip.errors import UserError, nearest
from fclip.processes import on_device

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

SPEED_BATCH = 16  # pictures
SPEED_S = 1.0  # at least so long, and three batches


def run_backbones(
    models: Sequence[str],
    catalogue: str | Path | Sequence[str | Path],
    split: str = "val",
    settings: Settings = DEFAULTS,
    *,
    ks: Sequence[int] = (),
    category: str | None = None,
    groups: Sequence[str] = (),
    against: str | None = None,
    speed: bool = True,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        models: what `open_model` knows, or NAME=that.
        catalogue, split: as `eval.subject.open_subject`.
        settings: of which `untuned` means nothing here.
        ks: neighbours looked at; none: 5 and 10.
        category: the column or attribute group of categories; None: the first of `retrieval_tasks.CATEGORIES`.
        groups: attribute groups; none: all.
        against: the model that the others are told differences to; None: the first.
        speed: measure it.

    Raises:
        UserError: the input is not usable, a name twice, or fewer than k candidates.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    target, named, chosen = settings.target, named_models(models), tuple(sorted({*(ks or (5, 10))}))
    if against is not None and against not in named:
        raise UserError(f"no model {against!r} to tell differences to; {nearest(against, named)}")
    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=settings.catalogue_format)
    pictures = select_split(whole, split)
    seen = _seen(named, pictures, read_labels(pictures, category, groups), chosen, speed, settings)
    result = _result(seen, pictures, against or next(iter(named)), chosen, settings)
    result |= {"catalogue": paths, "split": split, "k": list(chosen)}
    options: dict[str, Any] = {"catalogue": paths, "split": split, "model": list(models), "k": list(ks)}
    options |= {"category": category, "group": list(groups), "against": against, "no-speed": not speed}
    result["command"] = command("backbones", options | settings.options | {"json": settings.out})
    write_result(target, result)
    return result


@dataclass
class Seen:
    """What all models made of the same pictures."""

    shown: Labels  # of the pictures that could be read
    rows: NDArray[Any]  # their places in the split
    skipped: list[tuple[str, str]]
    values: dict[str, Values]  # model → score → (N,)
    about: dict[str, dict[str, Any]]  # model → its name, size and speed


def _seen(
    named: Mapping[str, str], pictures: Dataset, labels: Labels, ks: Sequence[int], speed: bool, settings: Settings
) -> Seen:
    """One model after the other, so that only one is in memory."""
    from fclip.pretrained import open_model

    check(labels, ks)  # before the work; again when some cannot be read
    seen = Seen(labels, np.arange(0), [], {}, {})
    for name, source in named.items():
        model = on_device(open_model(source, list(labels.groups)))
        images = embed_images(model, pictures, **settings.embedding)
        if not seen.values:
            seen = Seen(labels.take(images.rows), images.rows, images.skipped, {}, {})
            check(seen.shown, ks)
        elif not np.array_equal(seen.rows, images.rows):
            raise UserError(f"{name} could read other pictures than {next(iter(named))}; remove the unreadable ones")
        with errors_of(name):
            seen.values[name] = neighbours(images.vectors, images.vectors, seen.shown, ks)
        seen.about[name] = _about(model, source, images.vectors.shape[1], speed)
    return seen


def named_models(models: Sequence[str]) -> dict[str, str]:
    """NAME=SOURCE, or a source that is its own name → name: source, in order.

    Raises:
        UserError: none, or a name twice.
    """
    found: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not (equals and name and source) or ":" in name or "/" in name or Path(model).exists():
            name = source = model
        if name in found:
            raise UserError(f"the name {name} stands for two models; write --model OTHER={source}")
        found[name] = source
    if not found:
        raise UserError("expected a model to measure, got none; name one with --model")
    return found


def _baselines(pictures: Dataset, shown: Labels, ks: Sequence[int]) -> dict[str, Values]:
    found = {"chance": chance(shown, ks)}
    return found | {name: neighbours(*pair, shown, ks) for name, pair in looks(pictures).items()}


def _about(model: Model, source: str, dimension: int, speed: bool) -> dict[str, Any]:
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    about = {"model": model.name, "checkpoint": source, "fingerprint": model.fingerprint, "dimension": dimension}
    about |= {"millions": round(millions, 3), "size_px": list(model.preprocess.size)}
    return about | {"images_per_s": round(images_per_second(model), 2) if speed else None}


def images_per_second(model: Model, clock: Callable[[], float] = time.perf_counter) -> float:
    """Pictures that the tower encodes in a second, ready ones on its device: the fastest batch of some."""
    import torch

    pixels = torch.randn(SPEED_BATCH, 3, *model.preprocess.size, device=model.device)
    fastest, spent, batches = float("inf"), 0.0, 0
    with torch.inference_mode():
        model.encode_image(pixels)
        while spent < SPEED_S or batches < 3:
            start = clock()
            model.encode_image(pixels).cpu()  # waits for the device
            fastest, batches = min(fastest, clock() - start), batches + 1
            spent += clock() - start
    return SPEED_BATCH / fastest


def _contenders(values: Mapping[str, Values], shown: Labels, resamples: int, seed: int) -> list[Contender]:
    found = []
    for name, of in values.items():
        columns = np.stack(list(of.values()), 1)
        known = ~np.isnan(columns)
        parts, wholes = np.where(known, columns, 0), known.astype(np.float64)
        samples = ratio_samples(parts, wholes, shown.items.tolist(), resamples, seed)
        ratios = np.asarray(known_mean(columns.T), np.float64)
        apart = np.full(len(of), np.nan)
        found.append(Contender(name, list(of), ratios, apart, samples, parts, wholes, shown.items.tolist()))
    return found


def _result(seen: Seen, pictures: Dataset, against: str, ks: Sequence[int], settings: Settings) -> dict[str, Any]:
    items = seen.shown.items.tolist()
    contenders = _contenders(seen.values, seen.shown, *settings.resampling)
    beside = _baselines(pictures.select([int(row) for row in seen.rows]), seen.shown, ks) if settings.baselines else {}
    baselines = {name: dict(mean_scores(of, items, *settings.resampling)) for name, of in beside.items()}
    counts: dict[str, Any] = {"pictures": len(items), "products": len(set(items))}
    counts["asking"] = {s: int((~np.isnan(v)).sum()) for s, v in next(iter(seen.values.values())).items()}
    return {
        "schema": SCHEMA,
        "protocol": "backbones",
        "models": seen.about,
        "counts": counts,
        "skipped": [[str(identity), str(reason)] for identity, reason in seen.skipped],
        "bootstrap": {"resamples": settings.bootstrap, "seed": settings.seed, "level": LEVEL, "unit": "product"},
        "metrics": {one.name: {name: one.score(name) for name in one.names} for one in contenders},
        "baselines": baselines,
        "best": {score: contenders[place].name for score, place in winners(contenders, baselines).items()},
        "against": against,
        "differences": _apart(contenders, against, settings.seed),
    }


def _apart(contenders: Sequence[Contender], against: str, seed: int) -> dict[str, dict[str, Any]]:
    """Tower → score → its difference to one of them, with an interval and p."""
    [other] = [one for one in contenders if one.name == against]
    apart: dict[str, dict[str, Any]] = {one.name: {} for one in contenders if one is not other}
    for score in other.names if apart else ():
        for one, found in zip(contenders, differences(contenders, other, score, seed), strict=True):
            if one is not other:
                apart[one.name][score] = {**found.score, "p": found.p}
    return apart
