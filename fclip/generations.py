"""A folder of generated pictures: what generators write, and the study and the evaluation read.

    keep(folder, Generation("0001-0.png", "0001", 0, "red dress", "", 7, "sd", 1.2), picture)
    for generation in read_generations(folder): …

    FOLDER/generations.jsonl   one line of JSON for each picture
    FOLDER/0001-0.png          the picture: participant, and which of theirs

The picture is written first, then its line: a generator that was killed leaves at most a picture without a line, or a
line that was cut off, and `continue_generations` clears both up. Pictures hold no words about how they were made: a
blind study shows them as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError
from fclip.files import expand, write_bytes, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

LIST = "generations.jsonl"
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Generation:
    """One generated picture.

    Attributes:
        file: its name in the folder.
        participant: for whom it was made; index: which of theirs, from 0.
        prompt, negative_prompt: as the model was given them.
        seed: of its noise.
        model: a published name or a folder.
        seconds: its share of the time of its batch.
        settings: what else made it what it is: steps, size, adapters …
        memory_mb: most memory that its batch needed, in 10⁶ bytes; None: not measured.
        flagged: whether a safety checker blackened it.
    """

    file: str
    participant: str
    index: int
    prompt: str
    negative_prompt: str
    seed: int
    model: str
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    memory_mb: float | None = None
    flagged: bool = False


def picture_name(participant: str, index: int) -> str:
    """The file of a picture; a participant whose name is no safe file name gets a mark made from it."""
    if SAFE.fullmatch(participant):
        return f"{participant}-{index}.png"
    mark = hashlib.blake2b(participant.encode(), digest_size=4).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", participant)[:40].strip("_")
    return f"{plain or 'participant'}-{mark}-{index}.png"


def seed_of(seed: int, participant: str, index: int, attempt: int = 0) -> int:
    """The seed of a picture's noise, 32 bits: whoever else is asked for, and in whatever batches, it stays the same."""
    key = json.dumps([seed, participant, index, attempt]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")


def keep(folder: Path, generation: Generation, picture: Image) -> None:
    """Writes a picture, then its line; both are on the disk when it returns.

    Raises:
        UserError: the folder cannot be written.
    """
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    write_bytes(folder / generation.file, stream.getvalue())
    line = json.dumps(asdict(generation), ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with (folder / LIST).open("a", encoding="utf-8") as lines:
            lines.write(line)
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as error:
        raise UserError(f"cannot write {folder / LIST}: {error.strerror or error}; free some space") from None


def read_generations(folder: str | Path) -> list[Generation]:
    """The pictures of a folder, in the order of their participants and numbers.

    Raises:
        UserError: no such folder, an empty or damaged list, a picture that is not there, or two for one place.
    """
    folder = Path(expand(folder))
    if not (folder / LIST).is_file():
        raise UserError(f"expected generated pictures in {folder}, found no {LIST}; make some with "
                        f"python -m experiments.diffusion generate --out {folder}")  # fmt: skip
    lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    found = [_parse(line, f"{folder / LIST}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UserError(f"{folder / LIST} is empty: no picture was generated yet")
    absent = [generation.file for generation in found if not (folder / generation.file).is_file()]
    if absent:
        raise UserError(f"{folder} lacks {len(absent)} of its {len(found)} pictures, e.g. {absent[0]}; generate again")
    for name, keys in (("file", {g.file for g in found}), ("place", {(g.participant, g.index) for g in found})):
        if len(keys) < len(found):
            raise UserError(f"{folder / LIST} names a {name} twice; take out one of its lines")
    return sorted(found, key=lambda generation: (generation.participant, generation.index))


def continue_generations(folder: Path) -> list[Generation]:
    """What an interrupted generator had made: a line that was cut off and lines without a picture are taken out.

    Raises:
        UserError: a line that is damaged elsewhere than at the end, or a folder of something else.
    """
    file = folder / LIST
    if not file.is_file():
        other = next((one.name for one in folder.iterdir() if one.suffix != ".png" and one.name[0] != "."), None)
        if other is not None:
            raise UserError(f"{folder} holds {other} and no {LIST}: it is no folder of generations; choose another")
        return []
    text = file.read_bytes().decode("utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    whole = lines[:-1] if lines and not lines[-1].endswith("\n") else lines
    found = [_parse(line, f"{file}:{number}") for number, line in enumerate(whole, start=1)]
    there = [generation for generation in found if (folder / generation.file).is_file()]
    if len(there) < len(lines):
        write_text(file, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in there))
    return there


def _parse(line: str, where: str) -> Generation:
    try:
        values = json.loads(line)
        generation = Generation(
            **{name: values[name] for name in (f.name for f in fields(Generation)) if name in values}
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} is no picture's line: {str(error).replace('Generation.__init__() ', '')}") from None
    _check(generation, where)
    return generation


def _check(generation: Generation, where: str) -> None:
    kinds: dict[str, Any] = {
        "file": str,
        "participant": str,
        "index": int,
        "prompt": str,
        "negative_prompt": str,
        "seed": int,
    }
    kinds |= {"model": str, "seconds": (int, float), "settings": dict, "flagged": bool}
    for name, kind in kinds.items():
        if not isinstance(getattr(generation, name), kind):
            raise UserError(f"{where}: {name} is of another kind than expected, got {getattr(generation, name)!r}")
    if Path(generation.file).name != generation.file or generation.file.startswith("."):
        raise UserError(f"{where}: expected the name of a picture beside the list, got {generation.file!r}")
