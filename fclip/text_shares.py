"""Which process encodes which text: each distinct one is encoded once, however many processes and pictures have it.

    share = share_texts([of_first, of_second], of_all, rank=0)   # the same `distinct` and `places` in every process
    texts = gather(padded(encode(share.mine), share.most))       # (W * most, D)
    texts[share.places]                                          # a row for each of `share.distinct`

Captions made of attributes repeat within a batch, across processes, and in the bank of the surfacing loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """One process's part of the texts.

    Attributes:
        distinct: ids of all texts (U,), sorted.
        mine: ids of those that this process encodes (T,), at least one.
        most: the largest T of any process.
        places: of each of `distinct` among the texts of all processes, `most` rows for each (U,).
    """

    distinct: np.ndarray
    mine: np.ndarray
    most: int
    places: np.ndarray

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Where texts are among those of all processes: ids (N,) → rows (N,)."""
        return self.places[np.searchsorted(self.distinct, ids)]


def share_texts(held: Sequence[np.ndarray], common: np.ndarray, rank: int) -> Share:
    """Divides texts evenly among the processes that have their tokens.

    Args:
        held: ids of the texts that each process has (of any shape, with repetitions).
        common: ids that every process has besides.
        rank: which process asks.
    """
    distinct = np.unique(np.concatenate([*(ids.ravel() for ids in held), common]))
    if len(held) == 1:
        return Share(distinct, distinct, len(distinct), np.arange(len(distinct)))
    has = np.stack([np.isin(distinct, ids) for ids in held]) | np.isin(distinct, common)
    owner = _evenly(has)
    parts = [distinct[owner == process] for process in range(len(held))]
    # One without a share encodes a text for nothing: gradients are averaged only when each process has all of them.
    parts = [part if len(part) else distinct[mine][:1] for part, mine in zip(parts, has, strict=True)]
    most = max(map(len, parts))
    turn = np.empty(len(distinct), dtype=np.int64)
    for process in range(len(held)):
        turn[owner == process] = np.arange((owner == process).sum())
    return Share(distinct, parts[rank], most, owner * most + turn)


def _evenly(has: np.ndarray) -> np.ndarray:
    """Who does what: bool (W, U), who can → process (U,); what few can do is given away first."""
    load, owner = [0] * len(has), np.zeros(has.shape[1], dtype=np.int64)
    choices = [np.flatnonzero(able).tolist() for able in has.T]
    for text in np.argsort(has.sum(axis=0), kind="stable").tolist():
        process = min(choices[text], key=load.__getitem__)
        owner[text] = process
        load[process] += 1
    return owner
