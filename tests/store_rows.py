"""Rows for the tests of stores, and what plain Python makes of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fclip.store import Store
from fclip.store.filters import NoneOf, OneOf

D = 8
NASTY = ["plain", "it's", 'a "b"', "a/b", "", "x' OR 1=1 --", "été", "back\\slash", "100 %"]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("item", pa.string()),
        ("thumbnail", pa.binary()),
        ("vector", pa.list_(pa.float32(), D)),
        ("group_0", pa.string()),
        ("group_1", pa.list_(pa.string())),
        ("group_2", pa.float64()),
    ]
)


def rows_of(numbers, seed: int = 0) -> list[dict]:
    """Rows that depend on their numbers alone; some values are unknown."""
    rows = []
    for n in numbers:
        rng = np.random.default_rng([seed, n])
        vector = rng.normal(size=D)
        rows.append(
            {
                "id": f"{NASTY[n % len(NASTY)]}/{n}",
                "item": f"product {n // 2}",
                "thumbnail": rng.bytes(5),
                "vector": (vector / np.linalg.norm(vector)).astype(np.float32).tolist(),
                "group_0": None if n % 5 == 4 else NASTY[int(rng.integers(len(NASTY)))],
                "group_1": None if n % 7 == 6 else [NASTY[i] for i in rng.permutation(len(NASTY))[: rng.integers(3)]],
                "group_2": None if n % 3 == 2 else float(rng.integers(-4, 5)) / 2,
            }
        )
    return rows


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def fits(row: dict, condition) -> bool:
    """What a condition means."""
    value = row[condition.column]
    values = value if isinstance(value, list) else [] if value is None else [value]
    if isinstance(condition, OneOf):
        return any(v in condition.values for v in values)
    if isinstance(condition, NoneOf):
        return not any(v in condition.values for v in values)
    low, high = condition.low, condition.high
    return any((low is None or v >= low) and (high is None or v <= high) for v in values)


def query(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=D).astype(np.float32)


def nearest(rows: list[dict], vector: np.ndarray, limit: int) -> list[tuple[str, float]]:
    cosines = [(row["id"], float(np.dot(row["vector"], vector) / np.linalg.norm(vector))) for row in rows]
    return sorted(cosines, key=lambda pair: -pair[1])[:limit]


def ids_in(store: Store) -> set[str]:
    return {hit.id for hit in store.search(query(), 100)}
