"""Text → token ids (B, L), in one form for the three kinds of tokenizer that fashion models come with.

clip       open_clip's byte-pair encoding of 49,408 tokens: CLIP, FashionCLIP, most open_clip models
huggingface  a folder or hub name for `transformers.AutoTokenizer`: SigLIP and other text towers
trained    a small byte-pair encoding trained on the catalogue's own captions. A tower that starts from scratch trains
           1.4 times faster on 512 tokens than on 49,408, and learns the words that it will be asked with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from fclip.errors import UserError

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"


class Tokenizer(Protocol):
    """What a model needs of a tokenizer; `kind` and `context_length` are stored in the checkpoint."""

    kind: str
    context_length: int
    vocab_size: int

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids (B, context_length), int64; too long texts are cut and keep their end token."""
        ...

    def is_truncated(self, text: str) -> bool:
        """Whether the text has more tokens than fit."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """The words that the model cannot have learned; empty for the large vocabularies."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` needs beside the kind and context length."""
        ...


class ClipTokenizer:
    """open_clip's tokenizer; its vocabulary is inside the open_clip wheel, so nothing is saved."""

    kind = "clip"

    def __init__(self, context_length: int = 77) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._encoder = SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        self.vocab_size = self._encoder.vocab_size

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder(list(texts))

    def is_truncated(self, text: str) -> bool:
        return len(self._encoder.encode(text)) + 2 > self.context_length

    def unknown_words(self, text: str) -> list[str]:
        return []

    def save(self, folder: Path) -> None:
        pass


class HuggingFaceTokenizer:
    """A `transformers` tokenizer by open_clip's wrapper; `clean` is open_clip's text cleaning for it."""

    kind = "huggingface"

    def __init__(self, source: str | Path, context_length: int, clean: str = "whitespace", **options: object) -> None:
        from open_clip.tokenizer import HFTokenizer

        try:
            self._encoder = HFTokenizer(str(source), context_length=context_length, clean=clean, **options)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot load tokenizer {source}: {reason}; give a local folder with tokenizer.json"
            ) from None
        self.context_length = context_length
        self.vocab_size = len(self._encoder.tokenizer)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder(list(texts))

    def is_truncated(self, text: str) -> bool:
        return len(self._encoder.tokenizer(text).input_ids) > self.context_length

    def unknown_words(self, text: str) -> list[str]:
        return []

    def save(self, folder: Path) -> None:
        self._encoder.save_pretrained(str(folder))


class TrainedTokenizer:
    """A byte-pair encoding trained on captions, in the `tokenizers` library's own file."""

    kind = "trained"

    def __init__(self, encoder, context_length: int) -> None:  # encoder: tokenizers.Tokenizer
        self._encoder = encoder
        self._encoder.enable_truncation(context_length)
        self._encoder.enable_padding(length=context_length, pad_id=encoder.token_to_id(PAD), pad_token=PAD)
        self._unknown = encoder.token_to_id(UNKNOWN)
        self._length = type(encoder).from_str(encoder.to_str())  # counts tokens without cutting
        self._length.no_truncation()
        self._length.no_padding()
        self.context_length = context_length
        self.vocab_size = encoder.get_vocab_size()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1024, context_length: int = 32) -> TrainedTokenizer:
        """Learns the merges of the texts; the end token gets the highest id, where open_clip's towers pool."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

        encoder = Tokenizer(models.BPE(unk_token=UNKNOWN, end_of_word_suffix="</w>"))
        encoder.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        encoder.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2, special_tokens=[PAD, UNKNOWN], end_of_word_suffix="</w>", show_progress=False
        )
        encoder.train_from_iterator(texts, trainer)
        encoder.add_special_tokens([START, END])
        ends = [(START, encoder.token_to_id(START)), (END, encoder.token_to_id(END))]
        encoder.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
        return cls(encoder, context_length)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([e.ids for e in self._encoder.encode_batch(list(texts))])

    def is_truncated(self, text: str) -> bool:
        return len(self._length.encode(text).ids) > self.context_length

    def unknown_words(self, text: str) -> list[str]:
        """Words that hold a character never seen, or that are spelled letter by letter: never seen as a word."""
        words = text.lower().split()
        ids = [self._length.encode(word, add_special_tokens=False).ids for word in words]
        letters = [len(i) > 1 and len(i) >= len(w) for i, w in zip(ids, words, strict=True)]
        return [w for w, i, letter in zip(words, ids, letters, strict=True) if letter or self._unknown in i]

    def save(self, folder: Path) -> None:
        self._encoder.save(str(folder / "tokenizer.json"))


def load_tokenizer(kind: str, context_length: int, folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote to a checkpoint folder."""
    if kind == "clip":
        return ClipTokenizer(context_length)
    if kind == "huggingface":
        return HuggingFaceTokenizer(folder, context_length)
    from tokenizers import Tokenizer as Encoder

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json; the checkpoint is incomplete, copy it again")
    return TrainedTokenizer(Encoder.from_file(str(file)), context_length)


def truncated_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of texts that lose words to the context length; equal texts are looked at once."""
    cut = {text: tokenizer.is_truncated(text) for text in set(texts)}
    return sum(cut[text] for text in texts) / max(1, len(texts))
