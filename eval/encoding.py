"""Pictures and texts → unit vectors: once for each model and set of pictures, by all processes together.

    images = embed_images(model, pictures)      # of a Dataset: vectors (N, D), rows (N,), skipped
    texts = embed_texts(model, ["red dress"])   # (N, D)

Pictures are encoded in parts of `batch_size` and texts in parts of 256, one part a forward pass, whichever process
does it: a vector's last bits depend on the size of its batch, so they depend on nothing but the model and the set.
Inside `fclip.processes.joined` the parts are divided, inside `eval.cache.cached` they are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.cache import keeps, kept
from fclip.processes import is_main, together

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.embedding import ImageEmbeddings
    from fclip.model import Model

Skipped = list[tuple[str, str]]

FORM = 1  # of what is kept; another number makes another key
PICTURES = 64  # per forward pass
TEXTS = 256  # per forward pass: that of `fclip.embedding`


def embed_images(
    model: Model, pictures: Dataset, *, batch_size: int = PICTURES, progress: bool = False
) -> ImageEmbeddings:
    """Unit vectors of the pictures that can be read, and who cannot.

    Args:
        model: on its device.
        pictures: of a split. A whole split, and not a choice from it, is what another protocol finds kept.
        batch_size: pictures per forward pass; another one changes the last bits.
        progress: show a progress bar.

    Raises:
        UserError: not one picture could be read.
    """

    def compute() -> ImageEmbeddings:
        return _embed_images(model, pictures, batch_size, progress and is_main())

    if not keeps(model.fingerprint):
        return compute()
    about = [repr(model.preprocess), batch_size, _content(pictures)]
    return kept(_name("images", model, about), compute)


def embed_texts(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of texts (N, D).

    Raises:
        UserError: an empty text.
    """
    if not len(texts) or not keeps(model.fingerprint):
        return _embed_texts(model, texts)
    from fclip.embedding import ImageEmbeddings

    def compute() -> ImageEmbeddings:
        return ImageEmbeddings(_embed_texts(model, texts), np.arange(len(texts)), [])

    tokenizer = [model.tokenizer.kind, model.tokenizer.context_length, _tokens(model, texts)]
    return kept(_name("texts", model, [TEXTS, *tokenizer]), compute).vectors


def _embed_images(model: Model, pictures: Dataset, size: int, progress: bool) -> ImageEmbeddings:
    if together() is None:
        from fclip.embedding import embed_catalogue

        return embed_catalogue(model, pictures, batch_size=size, progress=progress)
    from fclip.embedding import ImageEmbeddings, collect, embed_batches

    mine = _my_share(len(pictures), size)
    parts = list(embed_batches(model, pictures.select(mine), size, progress))
    filled = [part for part in parts if len(part.rows)]
    rows = mine[np.concatenate([part.rows for part in filled])] if filled else mine[:0]
    vectors = np.concatenate([part.vectors for part in filled]) if filled else np.zeros((0, 0), np.float32)
    problems = [(int(mine[number * size]), part.skipped) for number, part in enumerate(parts) if part.skipped]
    vectors, rows, problems = _gathered(vectors, rows, problems)
    skipped = [problem for _, of_part in sorted(problems, key=lambda pair: pair[0]) for problem in of_part]
    return collect([ImageEmbeddings(vectors, rows, skipped)], len(pictures))


def _embed_texts(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    from fclip.embedding import embed_texts as embed

    if together() is None:
        return np.asarray(embed(model, texts), np.float32)
    mine = _my_share(len(texts), TEXTS)
    vectors = embed(model, [texts[i] for i in mine], batch_size=TEXTS)
    return _gathered(vectors, mine, [])[0]


def _my_share(n: int, size: int) -> NDArray[np.int64]:
    """The rows of this process's parts: every W-th of them, each whole."""
    state = together()
    assert state is not None
    part = np.arange(n) // size
    return np.flatnonzero(part % state.num_processes == state.process_index)


def _gathered(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], problems: list[tuple[int, Skipped]]
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[tuple[int, Skipped]]]:
    """Vectors (n, D) of these rows from every process, in the order of the rows, and all problems."""
    import torch
    from accelerate.utils import gather_object

    from fclip.distributed import gather

    state = together()
    assert state is not None
    said = gather_object([(vectors.shape[1], rows, problems)])
    longest, width = max(len(theirs) for _, theirs, _ in said), max(wide for wide, _, _ in said)
    padded = np.zeros((longest, width), np.float32)  # gathering wants equal shapes
    padded[: len(rows), : vectors.shape[1]] = vectors
    if not width:
        return vectors, rows, [problem for _, _, problems in said for problem in problems]
    everything = gather(torch.from_numpy(padded).to(state.device)).cpu().numpy().reshape(len(said), longest, width)
    whole = np.zeros((sum(len(theirs) for _, theirs, _ in said), width), np.float32)
    all_rows = np.sort(np.concatenate([theirs for _, theirs, _ in said]))
    for part, (_, theirs, _) in zip(everything, said, strict=True):
        whole[np.searchsorted(all_rows, theirs)] = part[: len(theirs)]
    return whole, all_rows, [problem for _, _, problems in said for problem in problems]


def _name(kind: str, model: Model, about: Sequence[Any]) -> str:
    """What embeddings are kept under: all that their bits are known to depend on."""
    import torch

    device = model.device.type
    autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "no"
    precision = [str(next(model.parameters()).dtype), autocast, torch.get_float32_matmul_precision()]
    whole = [FORM, model.card.architecture, device, precision, torch.__version__, *about]
    key = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]
    return f"{model.fingerprint}-{kind}-{key}"


def _content(pictures: Dataset) -> str:
    """Changes with any picture, with its id and with their order."""
    from fclip.features import picture_key

    def keys(cells: dict[str, list[Any]]) -> list[bytes]:
        pairs = zip(cells["id"], cells["image"], strict=True)
        return [picture_key({"id": name, "image": image}) for name, image in pairs]

    columns = pictures.select_columns(["id", "image"])
    return _digest(key for cells in columns.iter(PICTURES) for key in keys(cells))


def _tokens(model: Model, texts: Sequence[str]) -> str:
    """Changes with any text that the model can tell from another."""
    parts = (model.tokenizer(list(texts[i : i + TEXTS])) for i in range(0, len(texts), TEXTS))
    return _digest(part.numpy().tobytes() for part in parts)


def _digest(values: Iterable[bytes]) -> str:
    """Of a sequence of bytes, each hashed by itself: no two sequences run together alike."""
    whole = hashlib.blake2b(digest_size=16)
    for value in values:
        whole.update(hashlib.blake2b(value, digest_size=16).digest())
    return whole.hexdigest()
