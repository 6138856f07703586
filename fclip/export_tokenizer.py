"""Any of the three tokenizers as files of `transformers`, made without a network.

    ids = AutoTokenizer.from_pretrained(FOLDER)(texts, padding="max_length", truncation=True).input_ids

tokenizer.json alone does the same in the `tokenizers` library: `Tokenizer.from_file(...).encode(text).ids`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fclip.files import read_json, write_json, write_text
from fclip.tokenizer import END, OPTIONS_FILE, PAD, START, UNKNOWN, Tokenizer

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"  # OpenAI's names for open_clip's two special tokens


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> Any:
    """Writes tokenizer.json and what else AutoTokenizer reads, and returns the AutoTokenizer of the folder."""
    from transformers import AutoTokenizer

    tokenizer.save(folder)
    if tokenizer.kind == "clip":
        _write_clip(folder)
    elif tokenizer.kind == "trained":
        _write_settings(folder, "PreTrainedTokenizerFast", START, END, UNKNOWN, PAD)
    made = AutoTokenizer.from_pretrained(folder)
    made.model_max_length = tokenizer.context_length
    pad = {"pad_id": made.pad_token_id, "pad_token": made.pad_token, "direction": made.padding_side}
    made.backend_tokenizer.enable_padding(length=tokenizer.context_length, **pad)
    made.backend_tokenizer.enable_truncation(tokenizer.context_length)
    made.save_pretrained(folder)
    return made


def cleaning(folder: Path) -> dict[str, Any]:
    """How open_clip treats texts before the tokenizer gets them, where that is not as it treats all."""
    options = read_json(folder / OPTIONS_FILE, "a tokenizer's options") if (folder / OPTIONS_FILE).is_file() else {}
    return {name: value for name, value in options.items() if (name, value) != ("clean", "whitespace")}


def _write_clip(folder: Path) -> None:
    """The byte-pair encoding in open_clip's wheel, in the files of openai/clip-vit-base-patch32."""
    from open_clip.tokenizer import SimpleTokenizer

    bpe = SimpleTokenizer()
    names = {"<start_of_text>": CLIP_START, "<end_of_text>": CLIP_END}
    write_json(folder / "vocab.json", {names.get(token, token): i for token, i in bpe.encoder.items()}, indent=None)
    merges = sorted(bpe.bpe_ranks, key=lambda pair: bpe.bpe_ranks[pair])
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    _write_settings(folder, "CLIPTokenizer", CLIP_START, CLIP_END, CLIP_END, CLIP_END)


def _write_settings(folder: Path, kind: str, start: str, end: str, unknown: str, pad: str) -> None:
    """A text that spells a special token does not get it: `split_special_tokens`."""
    tokens = {"bos_token": start, "eos_token": end, "unk_token": unknown, "pad_token": pad}
    settings = {"tokenizer_class": kind, "split_special_tokens": True, **tokens}
    write_json(folder / "tokenizer_config.json", settings)
