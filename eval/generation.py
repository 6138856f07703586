"""How good are generated pictures: like the catalogue, like their words, unlike each other, and no copies?

    python -m eval generation runs/generations --catalogue data/catalogue --checkpoint fashionclip --pairs pairs.png

| score | what it is | beside it |
|---|---|---|
| fid, kid | distance to the catalogue in a network's features (`eval.metrics.distribution`) | real pictures |
| clip_score | 100 · cosine of picture and participant's words, at least 0 (Hessel et al. 2021) | others' words |
| similarity | mean cosine among a participant's pictures; `similarity_all`: of all (lower: more diverse) | |
| nearest | mean cosine to the catalogue's most similar picture; `copies`: share above `--copy` | real pictures |
| seconds, memory_mb | of each picture, as its generator noted them | |

"Real pictures" are as many of the catalogue's as were generated, against the rest of it: what FID says at this number
of pictures when nothing is wrong. The features are those of the checkpoint's image tower, times √D, so that KID's
kernel sees cosines; `--network` takes another's for FID and KID. Intervals resample participants; KID's are the 2.5th
and 97.5th percentile of its subsets, FID's tell its spread and not its bias. Pictures that a safety checker blackened
are left out and counted. Nothing here says whether anybody would wear it: that is what the study is for.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.distribution import frechet_distance, frechet_samples, kernel_samples
from eval.metrics.likeness import mean_similarity, nearest, within_similarity
from eval.metrics.uncertainty import interval
from eval.protocol import errors_of
from eval.scores import LEVEL, Score, score
from eval.subject import Subject, command, embed_images, embed_texts, head, mean_scores, open_subject, write_result
from fclip.errors import UserError
from fclip.files import writable
from fclip.generations import Generation, read_generations

if TYPE_CHECKING:
    from datasets import Dataset

Vectors = NDArray[np.float32]
FEW = 2048  # pictures below which FID is known to be mostly bias
SHOWN = 8  # pairs on the sheet


def run_generation(
    folder: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    checkpoint: str | Path,
    split: str = "train",
    out: str | Path | None = None,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    pairs: str | Path | None = None,
    copy: float = 0.95,
    subsets: int = 100,
    subset_size: int = 1000,
    catalogue_format: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        folder: of `fclip.generations`.
        catalogue, checkpoint, split, catalogue_format: as `eval.subject.open_subject`; what the generator learned from.
        out: the JSON file; None writes nothing.
        network, weights: `eval.feature_networks.open_network`'s, for FID and KID; None: the checkpoint's tower.
        pairs: a PNG of the pictures nearest to a picture of the catalogue, beside it.
        copy: the cosine from which on a picture counts as a copy.
        subsets, subset_size: of KID.

    Raises:
        UserError: no generations, or anything in the catalogue, checkpoint or network that is not usable.
    """
    from eval.feature_networks import open_network

    targets = [None if path is None else writable(path) for path in (out, pairs)]
    if (network is None) != (weights is None):
        raise UserError("expected --network and --network-weights together, or neither")
    generations = [one for one in read_generations(folder) if not one.flagged]
    if len(generations) < 2:
        raise UserError(f"expected at least two pictures in {folder} that no safety checker blackened")
    subject = open_subject(checkpoint, catalogue, split, catalogue_format)
    made = as_pictures(Path(folder), generations)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    ours, real = (embed_images(subject.model, pictures, **options) for pictures in (made, subject.pictures))
    generations = [generations[row] for row in ours.rows]
    features, about = (_scaled(ours.vectors), _scaled(real.vectors)), subject.model.name
    if network is not None and weights is not None:
        other = open_network(network, weights)
        first, second = made.select(ours.rows), subject.pictures.select(real.rows)
        features = other.embed(first, **options).vectors, other.embed(second, **options).vectors
        about = f"{network} {other.fingerprint}"
    people = np.array([one.participant for one in generations])
    with errors_of(subject.model.name):
        measured, baselines, counts = distances(features, people, subsets, subset_size, bootstrap, seed)
        words, others_words = word_scores(subject, generations, ours.vectors, bootstrap, seed)
        near, row, cosine = nearest_scores(ours.vectors, real.vectors, people, copy, bootstrap, seed)
        measured |= words | similarities(ours.vectors, people, bootstrap, seed) | near
        baselines["real"] |= real_nearest(real.vectors, len(generations), copy, seed)
    measured |= costs(generations, people, bootstrap, seed)
    counts |= {"pictures": len(generations), "participants": len(set(people)), "catalogue": len(real.rows)}
    counts |= {
        "blackened": len(read_generations(folder)) - len(made),
        "unreadable": len(ours.skipped) + len(real.skipped),
        "without_words": sum(not words_of(one) for one in generations),
    }
    result = head("generation", subject, counts, bootstrap, seed, unit="participant")
    result |= {"generations": str(folder), "features": about, "generators": sorted({one.model for one in generations})}
    result |= {"copy": copy, "metrics": measured, "baselines": baselines | {"other_words": others_words}}
    ids = subject.pictures["id"][:]
    found = sorted(zip(generations, real.rows[row], cosine, strict=True), key=lambda pair: -pair[2])
    result["nearest"] = [{"file": one.file, "id": ids[place], "cosine": round(float(c), 6)} for one, place, c in found]
    result["notes"] = remarks(result, features[0].shape[1])
    result["skipped"] = [list(problem) for problem in [*ours.skipped, *real.skipped]]
    asked: dict[str, Any] = {
        "checkpoint": checkpoint,
        "catalogue": subject.catalogue,
        "split": split,
        "format": catalogue_format,
    }
    asked |= {"network": network, "network-weights": weights, "copy": copy, "bootstrap": bootstrap, "seed": seed}
    result["command"] = f"{command('generation', asked | {'json': out, 'pairs': pairs})} {shlex.quote(str(folder))}"
    write_result(out, result)
    if targets[1] is not None:
        draw_pairs(Path(folder), subject.pictures, found[:SHOWN], targets[1])
    return result


def as_pictures(folder: Path, generations: Sequence[Generation]) -> Dataset:
    """Generated pictures in the shape of a catalogue's."""
    from datasets import Dataset, Features, Image, Value

    columns = {"id": [one.file for one in generations]}
    images = [{"bytes": None, "path": str(folder / one.file)} for one in generations]
    return Dataset.from_dict(
        columns | {"image": images}, Features({"id": Value("string"), "image": Image(decode=False)})
    )


def distances(
    features: tuple[Vectors, Vectors], people: NDArray[Any], subsets: int, size: int, resamples: int, seed: int
) -> tuple[dict[str, Score], dict[str, Any], dict[str, int]]:
    """FID and KID of generated and real features; those of real pictures; and what they were counted on."""
    ours, real = features
    low, high = interval(frechet_samples(ours, real, people, min(resamples, 200), seed)[:, None], LEVEL)
    kernels, used = kernel_samples(ours, real, subsets, size, seed)
    measured = {"fid": score(frechet_distance(ours, real), low[0], high[0]), "kid": _of_subsets(kernels)}
    part, rest = _halves(len(real), len(ours), seed)
    controls, _ = kernel_samples(real[part], real[rest], subsets, size, seed)
    baseline = {"fid": score(frechet_distance(real[part], real[rest])), "kid": _of_subsets(controls)}
    return measured, {"real": baseline}, {"kid_subsets": subsets, "kid_subset_size": used, "real": len(part)}


def word_scores(
    subject: Subject, generations: Sequence[Generation], vectors: Vectors, resamples: int, seed: int
) -> tuple[dict[str, Score], dict[str, Score]]:
    """CLIP score with one's own words, and with those of the other participants; nan for pictures made without any."""
    said = [words_of(one) for one in generations]
    distinct = [text for text in dict.fromkeys(said) if text]
    right, others = np.full((2, len(said)), np.nan)
    if distinct:
        rows = np.array([row for row, text in enumerate(said) if text])
        words = embed_texts(subject.model, distinct)
        cosines = np.maximum(100 * vectors[rows].astype(np.float64) @ words.T.astype(np.float64), 0)  # (N, T)
        right[rows] = cosines[np.arange(len(rows)), [distinct.index(said[row]) for row in rows]]
        if len(distinct) > 1:
            others[rows] = (cosines.sum(1) - right[rows]) / (len(distinct) - 1)
    people = [one.participant for one in generations]
    found = mean_scores({"own": right, "others": others}, people, resamples, seed)
    return {"clip_score": found["own"]}, {"clip_score": found["others"]}


def words_of(generation: Generation) -> str:
    """What its participant said; empty for a generator that hears no words, as a DCGAN."""
    return str(generation.settings.get("text") or generation.prompt).strip()


def similarities(vectors: Vectors, people: NDArray[Any], resamples: int, seed: int) -> dict[str, Score]:
    """Mean cosine within each participant's pictures, every participant counted once; and among all pictures."""
    names, within = within_similarity(vectors, list(people))
    found = mean_scores({"similarity": within}, names, resamples, seed)
    return found | {"similarity_all": score(mean_similarity(vectors))}


def nearest_scores(
    vectors: Vectors, real: Vectors, people: NDArray[Any], copy: float, resamples: int, seed: int
) -> tuple[dict[str, Score], NDArray[np.int64], NDArray[np.float64]]:
    """Scores of the nearest picture; which it is of each, and its cosine."""
    row, cosine = nearest(vectors, real)
    values = {"nearest": cosine, "copies": (cosine >= copy).astype(float)}
    return mean_scores(values, list(people), resamples, seed), row, cosine


def real_nearest(real: Vectors, number: int, copy: float, seed: int) -> dict[str, Score]:
    """The same of real pictures among the rest."""
    part, rest = _halves(len(real), number, seed)
    if not len(part) or not len(rest):
        return {}
    _, cosine = nearest(real[part], real[rest])
    return {"nearest": score(cosine.mean()), "copies": score((cosine >= copy).mean())}


def costs(generations: Sequence[Generation], people: NDArray[Any], resamples: int, seed: int) -> dict[str, Score]:
    """Seconds and memory of a picture, as noted."""
    memory = [np.nan if one.memory_mb is None else one.memory_mb for one in generations]
    values = {"seconds": np.array([one.seconds for one in generations]), "memory_mb": np.array(memory)}
    return mean_scores(values, list(people), resamples, seed)


def remarks(result: Mapping[str, Any], dimensions: int) -> list[str]:
    """What must be said beside the numbers."""
    counts, found = result["counts"], []
    if counts["pictures"] < FEW:
        real = result["baselines"]["real"]["fid"]["value"]
        found.append(
            f"FID of {counts['pictures']} pictures in {dimensions} dimensions is mostly its bias (it wants {FEW} and "
            f"more): {counts['real']} real pictures have {real}; compare with that, or take KID"
        )
    if counts["blackened"]:
        found.append(f"{counts['blackened']} pictures that a safety checker blackened were left out")
    if counts["without_words"]:
        found.append(f"{counts['without_words']} pictures were made without words and have no CLIP score")
    if counts["unreadable"]:
        found.append(f"{counts['unreadable']} pictures could not be read; `skipped` in --json FILE names them")
    return found


def draw_pairs(folder: Path, pictures: Dataset, found: Sequence[tuple[Generation, Any, Any]], path: Path) -> None:
    """Writes the pairs of generated and nearest real picture, the most alike first.

    Raises:
        UserError: the file cannot be written.
    """
    from fclip.contact_sheet import pair_sheet, save_contact_sheet

    shown: list[Any] = []
    for one, row, cosine in found:
        cell = pictures[int(row)]
        shown.append(
            ([folder / one.file, cell["image"]], [(one.file, one.prompt), (cell["id"], f"cosine {cosine:.3f}")])
        )
    save_contact_sheet(path, pair_sheet("generated pictures and the nearest of the catalogue", shown))


def _scaled(vectors: Vectors) -> Vectors:
    return vectors * np.float32(np.sqrt(vectors.shape[1]))


def _halves(total: int, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As many rows as asked for (at most half), drawn at random, and all others."""
    order = np.random.default_rng(seed).permutation(total)
    number = min(number, total // 2)
    return order[:number], order[number:]


def _of_subsets(values: NDArray[np.float64]) -> Score:
    low, high = interval(values[:, None], LEVEL)
    return score(values.mean() if len(values) else np.nan, low[0], high[0]) | {
        "deviation": round(float(values.std()), 6)
    }
