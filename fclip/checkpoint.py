"""A checkpoint is one folder, all that embed, eval and serve need; never a pickle.

model.safetensors   weights, open_clip's names
model.json          architecture, preprocessing, tokenizer kind, captions, fingerprint of the weights
tokenizer.json …    where the tokenizer is not in the open_clip wheel
preset.yaml         the resolved preset of the run (also in training checkpoints: metrics.json, and in `last` state.pt
                    and files.json, the checksums of all files)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import fclip
from fclip.captions import Captions
from fclip.errors import UserError
from fclip.files import expand, new_folder, read_json, sha256, write_json
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.pretrained import load_state, read_weights
from fclip.tokenizer import load_tokenizer

FORMAT = 1
CHECKSUMS = "files.json"


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is one of ours."""
    return (Path(folder) / "model.json").is_file()


def save_checkpoint(model: Model, folder: str | Path, overwrite: bool = False) -> None:
    """Writes a checkpoint folder, whole or not at all."""
    with new_folder(folder, overwrite) as beside:
        write_model(model, beside)


def write_model(model: Model, folder: Path) -> None:
    """Writes the model's files into an existing folder and sets its fingerprint."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.clip.state_dict().items()}
    save_file(state, str(folder / "model.safetensors"), model.weights_header())
    model.tokenizer.save(folder)
    model.fingerprint = _fingerprint(folder / "model.safetensors")
    card = {
        "format": FORMAT,
        "fclip": fclip.__version__,
        "fingerprint": model.fingerprint,
        "tokenizer": {"kind": model.tokenizer.kind, "context_length": model.tokenizer.context_length},
        **asdict(model.card),
    }
    write_json(folder / "model.json", card)


def load_checkpoint(folder: str | Path) -> Model:
    """Reads a checkpoint folder; the model is in evaluation mode, on the CPU.

    Raises:
        UserError: no checkpoint there, of a newer format, damaged, or of another architecture than it says.
    """
    folder = Path(expand(folder))
    if not folder.is_dir():
        raise UserError(f"no checkpoint folder {folder}; training writes OUT/best and OUT/last")
    if not is_checkpoint(folder):
        inside = [d.name for d in sorted(folder.iterdir()) if is_checkpoint(d)]
        hint = f"did you mean {folder / inside[0]}?" if inside else "training writes OUT/best and OUT/last"
        raise UserError(f"expected model.json in the checkpoint folder {folder}; {hint}")
    card = read_json(folder / "model.json", "a checkpoint's card")
    if card.get("format") != FORMAT:
        raise UserError(f"expected checkpoint format {FORMAT}, got {card.get('format')!r} in {folder}; update fclip")
    try:
        model = _model(card, folder)
    except KeyError as error:
        raise UserError(f"model.json in {folder} lacks {error}; copy the checkpoint again") from None
    weights = folder / "model.safetensors"
    load_state(model.clip, read_weights(weights), str(weights))
    if _fingerprint(weights) != card.get("fingerprint"):
        raise UserError(f"{weights} is not what model.json says it is; copy the checkpoint again")
    model.fingerprint = card["fingerprint"]
    return model.eval()


def _model(card: dict, folder: Path) -> Model:
    captions: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["captions"].items()}
    own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["preprocess"].items()}
    tokenizer = load_tokenizer(card["tokenizer"]["kind"], card["tokenizer"]["context_length"], folder)
    model_card = ModelCard(card["name"], card["architecture"], Preprocess(**own), Captions(**captions))
    return Model(instantiate(card["architecture"]), model_card, tokenizer)


def _fingerprint(file: Path) -> str:
    """Sixteen hex digits of the weights file's SHA-256."""
    return sha256(file)[:16]


def write_checksums(folder: Path) -> None:
    """Writes files.json, name → SHA-256 of every file in a folder: the last thing that is written to it."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {file.name: sha256(file) for file in files})


def damaged_file(folder: Path) -> str | None:
    """The name of a file that is not what `write_checksums` saw, or of the list itself; None when all are whole."""
    try:
        expected = dict(read_json(folder / CHECKSUMS, "the checksums of a checkpoint"))
    except (UserError, TypeError, ValueError):
        return CHECKSUMS
    for name, checksum in expected.items():
        if not (folder / name).is_file() or sha256(folder / name) != checksum:
            return name
    return None
