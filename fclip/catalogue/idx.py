"""Pictures and labels in the format of MNIST and Fashion-MNIST.

    pictures = read_idx("t10k-images-idx3-ubyte.gz")   # uint8 (10000, 28, 28)
    labels = read_labels("t10k-labels-idx1-ubyte.gz")  # uint8 (10000,)

Four bytes of magic (0, 0, type, number of dimensions), the dimensions as big-endian 32-bit numbers, then the values;
gzip around it is told from the content, since the files go about with and without.

Source: http://yann.lecun.com/exdb/mnist (THE IDX FILE FORMAT), github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fclip.errors import UserError
from fclip.files import expand

GZIP = b"\x1f\x8b"
UBYTE = 8  # the type of the values


def read_idx(file: str | Path) -> NDArray[np.uint8]:
    """Pictures (N, H, W).

    Raises:
        UserError: no such file, labels instead of pictures, or a file that is damaged, cut off or of another format.
    """
    values = _values(file)
    if values.ndim != 3:
        raise UserError(f"{file} has labels, not pictures; name the file images-idx3-ubyte beside it")
    return values


def read_labels(file: str | Path) -> NDArray[np.uint8]:
    """Labels (N,).

    Raises:
        UserError: as `read_idx`, for pictures instead of labels.
    """
    values = _values(file)
    if values.ndim != 1:
        raise UserError(f"{file} has pictures, not labels; expected the file labels-idx1-ubyte here")
    return values


def _values(file: str | Path) -> NDArray[np.uint8]:
    """The array that a file holds, of one to three dimensions."""
    file = Path(expand(str(file)))
    data = _unpacked(file)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UBYTE or not 1 <= data[3] <= 3:
        raise UserError(f"expected a file in Fashion-MNIST's format (idx-ubyte), found another format in {file}")
    begins = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, begins, 4)]
    told, there = math.prod(shape), len(data) - begins
    if told != there:
        raise UserError(
            f"{file} is damaged: expected {'×'.join(map(str, shape))} values, found {max(there, 0)} bytes; "
            "copy or download it again"
        )
    return np.frombuffer(data, np.uint8, offset=begins).reshape(shape)


def _unpacked(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"expected a file of Fashion-MNIST, e.g. train-images-idx3-ubyte.gz, cannot read {file}: {error.strerror}"
        ) from None
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}); copy or download it again") from None
