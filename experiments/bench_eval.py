"""Time and memory of recall@10, pictures → captions: this toolkit's way, open_clip's and torchmetrics'.

    python -m experiments.bench_eval                                            # 100 k pictures x 10 k captions x 512
    python -m experiments.bench_eval --images 2000 --captions 500 --rounds 3    # seconds
    python -m experiments.bench_eval --ways surfacing                           # the whole protocol

    fclip         `eval.metrics.search.rank_embeddings`: blocks of cosines, ties against the model
    open_clip     as `open_clip_train.train.get_clip_metrics`: the whole matrix, sorted
    torchmetrics  `RetrievalRecall`: every picture with every caption as a list of its own
    surfacing     all of `python -m eval surfacing` but the embedding: nearest captions, ranks both ways, intervals of
                  1000 resamples, the JSON file; named by `--ways surfacing` alone

Every measurement has a process of its own, because the peak of a process never falls; the ways take turns. Memory is
the peak beyond embeddings and libraries, and the peak in all. A way is tried small first, twice: what its memory would
be at the whole size is extrapolated from there, in pairs of picture and caption. Where that is more than `--limit-gb`,
it is not started: the table says what it would need. What runs out of memory or of `--limit-s` in spite of it says so.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Way = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], float]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
K = 10
SMALL = ((4_000, 2_000), (8_000, 4_000))  # sizes from which memory is extrapolated


@app.command()
def bench(
    images: Annotated[int, typer.Option(min=1, help="Pictures.")] = 100_000,
    captions: Annotated[int, typer.Option(min=K, help="Captions, one of them right for each picture.")] = 10_000,
    dim: Annotated[int, typer.Option(min=1, help="Width of the embeddings.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every way; the medians count.")] = 3,
    ways: Annotated[str, typer.Option(help="Which ways, with commas; the first is what the others are divided by.")] = (
        "fclip,open_clip,torchmetrics"
    ),
    limit_gb: Annotated[float, typer.Option(help="Memory of one process; 0: nine tenths of what is free.")] = 0,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one turn of one way.")] = 150,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Compare time and memory of recall@10 with open_clip's and torchmetrics' way.

    \b
    python -m experiments.bench_eval --images 2000 --captions 500
    """
    if one:
        print(json.dumps(measure(WAYS[one], images, captions, dim, limit_gb)))
        return
    names = ways.split(",")
    if wrong := [name for name in names if name not in WAYS]:
        raise typer.BadParameter(f"expected ways among {', '.join(WAYS)}, got {wrong[0]}")
    sizes = ["--images", images, "--captions", captions, "--dim", dim, "--limit-gb", limit_gb]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    allowed = limit_gb or 0.9 * free_gb()
    for name in names if images * captions > SMALL[-1][0] * SMALL[-1][1] else []:
        if (needed := needed_gb(name, images, captions, dim, limit_s)) > allowed:
            failed[name] = f"not started: needs about {needed:.0f} GB, {allowed:.0f} GB are allowed"
    for _ in range(rounds):
        for name in names:
            if name not in failed:
                _take_turn(name, [str(word) for word in sizes], found[name], failed, limit_s)
    print("\n".join(table(found, failed)))


def table(found: dict[str, list[dict[str, float]]], failed: dict[str, str]) -> list[str]:
    """Lines of Markdown: medians, and ratios to the first way."""
    lines = ["| | recall@10 | s | × | MB beyond the embeddings | × | MB in all |", "|---|---|---|---|---|---|---|"]
    median = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in found.items()
        if turns and name not in failed
    }
    first = median.get(next(iter(found)))
    for name in found:
        if name in failed:
            lines.append(f"| {name} | {failed[name]} | – | – | – | – | – |")
            continue
        of = median[name]
        times, more = (f"{of[key] / first[key]:.1f}" if first else "–" for key in ("seconds", "beyond_mb"))
        memory = [f"{of['beyond_mb']:.0f}", more, f"{of['peak_mb']:.0f}"]
        lines.append("| " + " | ".join([name, f"{of['recall']:.4f}", f"{of['seconds']:.2f}", times, *memory]) + " |")
    return lines


def needed_gb(name: str, images: int, captions: int, dim: int, limit_s: float) -> float:
    """Memory that a way would need beyond the embeddings, by a line through its peaks at two small sizes; else 0."""
    peaks: list[dict[str, float]] = []
    for n, m in SMALL:
        sizes = ["--images", n, "--captions", m, "--dim", dim]
        _take_turn(name, [str(word) for word in sizes], peaks, {}, limit_s)
    if len(peaks) < len(SMALL):
        return 0
    (small, large), (first, last) = [n * m for n, m in SMALL], [of["beyond_mb"] for of in peaks]
    slope = max(last - first, 0) / (large - small)  # a way by blocks is flat
    return (last + slope * (images * captions - large)) / 1000


def free_gb() -> float:
    """Memory that is free on this machine."""
    import psutil

    return psutil.virtual_memory().available / 1e9


def measure(way: Way, images: int, captions: int, dim: int, limit_gb: float) -> dict[str, float]:
    """Runs one way in this process: its recall, seconds and memory."""
    import resource

    limit = int((limit_gb or 0.9 * free_gb()) * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    way(*embeddings(20, K, dim))  # imports, threads
    data = embeddings(images, captions, dim)
    before, start = _peak_mb(), time.perf_counter()
    recall = way(*data)
    seconds, peak = time.perf_counter() - start, _peak_mb()
    return {"recall": recall, "seconds": seconds, "beyond_mb": max(peak - before, 1.0), "peak_mb": peak}


def embeddings(
    images: int, captions: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (images, dim) and (captions, dim), and each picture's caption; some are found, some not."""
    import numpy as np

    rng = np.random.default_rng(0)
    texts = rng.standard_normal((captions, dim), np.float32)
    own = np.arange(images) % captions
    pictures = rng.standard_normal((images, dim), np.float32)
    for start in range(0, images, 1024):  # in place and by parts: the peak is to be that of what is measured
        part = slice(start, start + 1024)
        pictures[part] += 0.13 * texts[own[part]]
        pictures[part] /= np.linalg.norm(pictures[part], axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return pictures, texts, own


def by_fclip(pictures: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]) -> float:
    """Ranks block by block."""
    from eval.metrics.relevance import Relevance
    from eval.metrics.retrieval import hit_at
    from eval.metrics.search import rank_embeddings

    return float(hit_at(rank_embeddings(pictures, texts, Relevance.of_own(own, len(texts))), K).mean())


def by_open_clip(pictures: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]) -> float:
    """open_clip's `get_clip_metrics`, with several pictures per caption, pictures → captions only."""
    import torch

    logits = torch.from_numpy(pictures) @ torch.from_numpy(texts).t()
    ranking = torch.argsort(logits, descending=True)
    places = torch.where(ranking == torch.from_numpy(own).view(-1, 1))[1].numpy()
    return float((places < K).mean())


def by_torchmetrics(pictures: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]) -> float:
    """Every pair is an update of `RetrievalRecall`, a block of pictures at once."""
    import torch
    from torchmetrics.retrieval import RetrievalRecall

    metric, places = RetrievalRecall(top_k=K), torch.arange(len(texts))
    for start in range(0, len(pictures), 1024):
        part = slice(start, start + 1024)
        scores = torch.from_numpy(pictures[part]) @ torch.from_numpy(texts).t()
        target = torch.from_numpy(own[part]).view(-1, 1) == places
        query = torch.arange(start, start + len(scores)).view(-1, 1).expand_as(scores)
        metric.update(scores.flatten(), target.flatten(), indexes=query.flatten())
    return float(metric.compute())


def by_surfacing(pictures: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]) -> float:
    """The protocol as it goes on after embedding: two pictures of a product, six groups of attributes."""
    import tempfile
    from types import SimpleNamespace

    import datasets  # noqa: F401  # that and the next are in memory when the protocol runs
    import numpy as np

    import fclip.embedding  # noqa: F401
    from eval.labels import Labels
    from eval.subject import write_result
    from eval.surfacing import answer, result_of

    n, rng = len(pictures), np.random.default_rng(1)
    codes = rng.integers(-1, 20, (len(texts), 6))[own]
    ids, items = [f"picture {i}" for i in range(n)], [f"product {i // 2}" for i in range(n)]
    groups = tuple(f"group {g}" for g in range(6))
    labels = Labels(groups, np.arange(n), ids, items, [f"caption {i}" for i in own], codes, 0)
    measured = answer(labels, own, pictures, texts, [], {})
    result = result_of(SimpleNamespace(name="synthetic", fingerprint="none"), measured, 1000, 0)
    with tempfile.TemporaryDirectory() as folder:
        write_result(f"{folder}/result.json", result)
    return result["metrics"]["recall_at_10"]["value"]


WAYS: dict[str, Way] = {
    "fclip": by_fclip,
    "open_clip": by_open_clip,
    "torchmetrics": by_torchmetrics,
    "surfacing": by_surfacing,
}


def _take_turn(
    name: str, sizes: list[str], turns: list[dict[str, float]], failed: dict[str, str], limit_s: float
) -> None:
    command = [sys.executable, "-m", "experiments.bench_eval", *sizes, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        failed[name] = f"more than {limit_s:.0f} s"
        return
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"]
        wants = "MemoryError" in done.stderr or "allocate" in done.stderr or done.returncode == -9
        failed[name] = "out of memory" if wants else said[-1]
        return
    turns.append(json.loads(done.stdout.splitlines()[-1]))


def _peak_mb() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    app()
