"""Search: an index against exact comparison (numpy) and faiss HNSW, by size and filter.

    python -m experiments.bench_search --sizes 10000,100000,1000000 --out runs/bench_search
    python -m experiments.bench_search --sizes 10000 --engines numpy,lance --queries 50

Vectors are synthetic and clustered as CLIP's are: a common direction (all pictures are alike), a cluster, a picture's
own part. Queries are drawn alike and are in no index. Every engine has a process of its own, on one core; what is
timed is one query at a time, and for the index all of `Index.search`: filter, search, one picture per product, and the
attributes and thumbnails of the answers. The truth is numpy's. On a machine that does other things believe the last
number of a cell: the time against that of numpy for every vector, each query by turns.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
FILTERS = {"no filter": 1, "10 %": 10, "0.5 %": 200}
"""Name → one of so many pictures fits."""
K = 10
AT_ONCE = 10_000
TURNS = 40  # queries that are compared with numpy's time
Search = Callable[[np.ndarray, int], list[int]]
"""(query, one of how many fits) → rows, the best first. The value that is asked for is always 0."""


@app.command()
def bench(
    sizes: Annotated[str, typer.Option(help="Numbers of vectors, with commas.")] = "10000,100000",
    engines: Annotated[str, typer.Option(help="Of numpy, faiss, lance and qdrant, with commas.")] = "numpy,faiss,lance",
    dimension: Annotated[int, typer.Option(help="Of the vectors.")] = 512,
    queries: Annotated[int, typer.Option(help="Queries for each filter.")] = 200,
    thumbnail_bytes: Annotated[int, typer.Option(help="Size of a picture's thumbnail.")] = 2000,
    url: Annotated[str, typer.Option(help="Of a Qdrant server's collection.")] = "http://localhost:6333/bench",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where table.md and figures.json go.")] = None,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure build time, disk, memory, latency and recall of searching.

    \b
    python -m experiments.bench_search --sizes 10000,100000,1000000 --out runs/bench_search
    """
    if one:
        print(json.dumps(measure(**json.loads(one))))
        return
    figures = []
    for size in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=out and _made(out)) as folder:
            draw(Path(folder), size, dimension, queries)
            for engine in dict.fromkeys(["numpy", *engines.split(",")]):  # numpy leaves the truth for the others
                about = {"engine": engine, "folder": folder, "thumbnail_bytes": thumbnail_bytes, "url": url}
                figures.append({"size": size, "engine": engine} | _measured(about))
                print(f"{size} {engine}: {figures[-1]}", file=sys.stderr, flush=True)
    print(table(figures))
    if out is not None:
        (out / "table.md").write_text(table(figures) + "\n")
        (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def table(figures: list[dict[str, Any]]) -> str:
    """Markdown: a row for each size and engine; latencies as p50 (p99) in ms, recall@10, and times numpy's."""
    head = ["vectors", "engine", "build s", "disk MB", "memory MB", *FILTERS]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in figures:
        if "error" in row:
            lines.append(f"| {row['size']:,} | {row['engine']} | {row['error']} |" + " |" * (len(head) - 3))
            continue
        cells = [f"{row['size']:,}", row["kind"], f"{row['build_s']:.1f}", f"{row['disk_mb']:.0f}"]
        cells.append(f"{row['memory_mb']:.0f}")
        for f in row["filters"].values():
            cells.append(f"{f['p50_ms']:.2f} ({f['p99_ms']:.1f}) {f['recall']:.3f} {f['against']:.3f}×")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(folder: Path, size: int, dimension: int, queries: int) -> None:
    """Writes vectors.npy (size, D), queries.npy and values.npy (size, 2): what is filtered on."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=dimension)
    clusters = rng.normal(size=(max(10, size // 500), dimension))

    def some(number: int) -> np.ndarray:
        own = rng.normal(size=(number, dimension), scale=0.8)
        vectors = common + clusters[rng.integers(len(clusters), size=number)] + own
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (size, dimension))
    for start in range(0, size, AT_ONCE):
        vectors[start : start + AT_ONCE] = some(len(vectors[start : start + AT_ONCE]))
    vectors.flush()
    np.save(folder / "queries.npy", some(queries))
    np.save(folder / "values.npy", np.stack([rng.integers(10, size=size), rng.integers(200, size=size)], axis=1))


def _measured(about: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own measures, or what became of it."""
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, "-m", "experiments.bench_search", "--one", json.dumps(about)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"]
        return {"error": said[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(engine: str, folder: str, thumbnail_bytes: int, url: str) -> dict[str, Any]:
    """Builds and asks one engine: seconds, MB, latencies and recall."""
    where = Path(folder)
    values, queries = np.load(where / "values.npy"), np.load(where / "queries.npy")
    vectors = np.load(where / "vectors.npy", mmap_mode="r")
    before, start = _peak_mb(), time.perf_counter()
    if engine in ("lance", "qdrant"):
        uri = url if engine == "qdrant" else str(where / "index" / "pictures-1")
        kind, search = stored(uri, vectors, values, thumbnail_bytes)
    else:
        kind, search = {"numpy": exact, "faiss": hnsw}[engine](where, vectors, values)
    built = time.perf_counter() - start
    search(queries[0], 1)
    time.sleep(SETTLED_S)
    found = {name: _asked(search, queries, of) for name, of in FILTERS.items()}
    if engine == "numpy":
        np.savez(where / "truth.npz", **{str(of): found[name][0] for name, of in FILTERS.items()})
    truth, memory = np.load(where / "truth.npz"), _peak_mb() - before
    whole = np.load(where / "vectors.npy")
    against = {name: _against(search, queries[:TURNS], of, whole) for name, of in FILTERS.items()}
    return {
        "kind": kind,
        "build_s": built,
        "disk_mb": sum(file.stat().st_size for file in where.rglob(f"{OWN[engine]}/**/*") if file.is_file()) / 1e6,
        "memory_mb": memory,
        "filters": {
            name: {**times, "recall": _recall(rows, truth[str(FILTERS[name])]), "against": against[name]}
            for name, (rows, times) in found.items()
        },
    }


SETTLED_S = 2.5
"""After a first question: few rows are held in memory by who asks again later (`fclip.store.lance.SEEN_WITHIN`)."""
OWN = {"numpy": "exact", "faiss": "hnsw", "lance": "index", "qdrant": "none"}
"""Where an engine keeps its files."""


def _asked(search: Search, queries: np.ndarray, of: int) -> tuple[np.ndarray, dict[str, float]]:
    """The rows found (N, K), -1 where there are too few, and how long a query took."""
    rows, times = np.full((len(queries), K), -1), []
    for query in queries[:5]:
        search(query, of)  # caches fill
    for place, query in enumerate(queries):
        start = time.perf_counter()
        found = search(query, of)
        times.append(1e3 * (time.perf_counter() - start))
        rows[place, : len(found)] = found
    return rows, {"p50_ms": float(np.quantile(times, 0.5)), "p99_ms": float(np.quantile(times, 0.99))}


def _against(search: Search, queries: np.ndarray, of: int, whole: np.ndarray) -> float:
    """Median of the time of a query against that of comparing it with every vector (N, D), one after the other."""
    ratios = []
    for query in queries:
        start = time.perf_counter()
        search(query, of)
        between = time.perf_counter()
        _ = whole @ query
        ratios.append((between - start) / (time.perf_counter() - between))
    return float(np.median(ratios))


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(f) & set(t) - {-1}) / np.sum(t >= 0) for f, t in zip(found, truth, strict=True)]))


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _fits(values: np.ndarray, of: int) -> np.ndarray:
    return np.flatnonzero(values[:, list(FILTERS.values()).index(of) - 1] == 0)


def exact(folder: Path, vectors: np.ndarray, values: np.ndarray) -> tuple[str, Search]:
    """Every vector in memory, compared by BLAS."""
    (folder / "exact").mkdir()
    np.save(folder / "exact" / "vectors.npy", vectors)
    whole = np.load(folder / "exact" / "vectors.npy")
    fitting = {of: _fits(values, of) for of in FILTERS.values() if of > 1}

    def search(query: np.ndarray, of: int) -> list[int]:
        rows = fitting.get(of)
        few = rows is not None and len(rows) < len(whole) // 20  # gathering more costs more than comparing all
        scores = whole[rows] @ query if few else whole @ query
        if rows is not None and not few:
            scores = scores[rows]
        best = np.argpartition(-scores, K)[:K] if len(scores) > K else np.arange(len(scores))
        best = best[np.argsort(-scores[best])]
        return (best if rows is None else rows[best]).tolist()

    return "numpy exact", search


def hnsw(folder: Path, vectors: np.ndarray, values: np.ndarray) -> tuple[str, Search]:
    """faiss, as most people would set it up: 32 links, 200 candidates while building and 64 while searching."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 200, 64
    for start in range(0, len(vectors), AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + AT_ONCE]))
    (folder / "hnsw").mkdir()
    faiss.write_index(index, str(folder / "hnsw" / "index.faiss"))
    chosen = {of: faiss.IDSelectorBatch(_fits(values, of)) for of in FILTERS.values() if of > 1}
    parameters = {of: faiss.SearchParametersHNSW(sel=some, efSearch=64) for of, some in chosen.items()}

    def search(query: np.ndarray, of: int) -> list[int]:
        _, found = index.search(query[None], K, params=parameters.get(of))
        return [row for row in found[0].tolist() if row >= 0]

    return "faiss HNSW", search


def stored(uri: str, vectors: np.ndarray, values: np.ndarray, thumbnail_bytes: int) -> tuple[str, Search]:
    """An index as `fclip index` makes it, without the embedding."""
    import pyarrow as pa

    from fclip.index import FORMAT, Index
    from fclip.index_rows import schema
    from fclip.places import Place
    from fclip.store import create_store, open_store

    kinds: Any = {"tenth": "text", "rare": "text"}
    shape = schema(kinds, vectors.shape[1])
    store, rng = create_store(uri, shape), np.random.default_rng(1)
    for start in range(0, len(vectors), AT_ONCE):
        part = np.ascontiguousarray(vectors[start : start + AT_ONCE])
        names = [str(row) for row in range(start, start + len(part))]
        columns: dict[str, Any] = dict.fromkeys(("id", "item", "split", "title", "picture", "facts"), names)
        columns["thumbnail"] = [rng.bytes(thumbnail_bytes) for _ in names]
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
        for place in range(2):
            columns[f"group_{place}"] = [str(value) for value in values[start : start + len(part), place]]
        store.add(pa.table({name: columns[name] for name in shape.names}, schema=shape))
    asked = vectors[rng.choice(len(vectors), 64, replace=False)]
    tuning = store.optimise(lambda: {"pictures": asked}, fresh=True)
    about = {"format": FORMAT, "groups": list(kinds), "numbers": [], "lists": [], "dimension": vectors.shape[1]}
    index = Index(Place(Path(uri).parent), about, open_store(uri, tuning.settings))
    filters = {1: None, 10: {"tenth": "0"}, 200: {"rare": "0"}}
    told = "".join(f" {name}={value}" for name, value in tuning.settings.items())

    def search(query: np.ndarray, of: int) -> list[int]:
        return [int(answer.id) for answer in index.search(query, K, filters[of])]

    return f"fclip index, {tuning.kind}{told}", search


if __name__ == "__main__":
    app()
