"""Models whose embeddings are known: what evaluates them can be recomputed by hand."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from datasets import Dataset
from PIL import Image

from fclip.captions import Captions
from fclip.catalogue.schema import features

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (90, 90, 90), "pink": (200, 0, 99)}


@dataclass
class Fake:
    """Gives every picture and text a vector by its name; `skew` makes another model."""

    name: str = "fake"
    skew: int = 0
    constant: bool = False
    fingerprint: str = "f00"
    device: str = "cpu"
    reads_text: bool = True
    captions: Captions = field(default_factory=lambda: Captions("[{colour} ]{kind}[ for {use}]"))

    def to(self, device=None, memory_format=None):
        return self

    def require_text(self):
        assert self.reads_text

    def vectors(self, names):
        seeds = [0 if self.constant else crc32(name.encode()) + self.skew for name in names]
        rows = np.array([np.random.default_rng(seed).normal(size=6) for seed in seeds], np.float32).reshape(-1, 6)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row(name, item, split, rgb=(0, 0, 0), **attributes):
    data = io.BytesIO()
    Image.new("RGB", (20, 20), rgb).save(data, "png")
    known = {"colour": None, "kind": None, "use": None} | attributes
    picture = {"bytes": data.getvalue(), "path": None}
    return {"id": name, "item": item, "image": picture, "split": split, "attributes": known, "category": known["kind"]}


def make_catalogue(products=21, seed=0):
    rng, rows = np.random.default_rng(seed), []
    for product in range(products):
        colour, kind = str(rng.choice(list(COLOURS))), str(rng.choice(["dress", "shirt"]))
        for view in range(1 + product % 3):
            use = "work" if view == 2 else None  # a third view says more than the others
            split = "train" if product % 7 == 6 else "test"
            rgb = tuple(int(c) for c in np.add(COLOURS[colour], [product, 0, view]))
            rows.append(row(f"{product}-{view}", f"p{product}", split, rgb, colour=colour, kind=kind, use=use))
    rows.append(row("silent", "p0", "test"))
    return Dataset.from_list(rows, features=features(["colour", "kind", "use"], optional=["category"]))


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
