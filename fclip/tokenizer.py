"""Text → token ids (B, L), in one form for the three kinds of tokenizer that fashion models come with.

clip       open_clip's byte-pair encoding of 49,408 tokens: CLIP, FashionCLIP, most open_clip models
huggingface  a folder or hub name for `transformers.AutoTokenizer`: SigLIP and other text towers
trained    a small byte-pair encoding trained on the catalogue's own captions. A tower that starts from scratch trains
           1.4 times faster on 512 tokens than on 49,408, and learns the words that it will be asked with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fclip.errors import UserError
from fclip.files import read_json, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Encoder

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
NO_WORDS = "this model knows pictures only and cannot read words; ask it with pictures"
OPTIONS_FILE = "open_clip_tokenizer.json"  # how open_clip cleans texts before the tokenizer gets them


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

    def __init__(self, source: str | Path, context_length: int, clean: str = "whitespace", **options: Any) -> None:
        from open_clip.tokenizer import HFTokenizer

        try:
            self._encoder = HFTokenizer(str(source), context_length=context_length, clean=clean, **options)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot load tokenizer {source}: {reason}; give a local folder with tokenizer.json"
            ) from None
        self._options = {"clean": clean, **options}
        self.context_length = context_length
        self.vocab_size = len(self._encoder.tokenizer)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder(list(texts))

    def is_truncated(self, text: str) -> bool:
        return len(self._encoder.tokenizer(self._encoder.clean_fn(text)).input_ids) > self.context_length

    def unknown_words(self, text: str) -> list[str]:
        return []

    def save(self, folder: Path) -> None:
        self._encoder.save_pretrained(str(folder))
        write_json(folder / OPTIONS_FILE, self._options)


class TrainedTokenizer:
    """A byte-pair encoding trained on captions, in the `tokenizers` library's own file."""

    kind = "trained"

    def __init__(self, encoder: Encoder, context_length: int) -> None:
        if context_length < 3:
            raise UserError(f"a context needs room for start, a word and end: at least 3 tokens, got {context_length}")
        self._encoder = encoder
        self._encoder.enable_truncation(context_length)
        self._encoder.enable_padding(length=context_length, pad_id=encoder.token_to_id(PAD), pad_token=PAD)
        self._unknown = encoder.token_to_id(UNKNOWN)
        self._length = type(encoder).from_str(encoder.to_str())  # counts tokens without cutting
        self._length.no_truncation()
        self._length.no_padding()
        for each in (self._encoder, self._length):
            each.encode_special_tokens = True  # a text that says "<end>" does not end there
        self.context_length = context_length
        self.vocab_size = encoder.get_vocab_size()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1024, context_length: int = 32) -> TrainedTokenizer:
        """Learns the merges of the texts; the end token gets the highest id, where open_clip's towers pool.

        Words are marked where they begin. With a mark where they end the library numbers the letters in the order of
        a hash table, so that two processes of one run would speak different languages (huggingface/tokenizers#1794).
        """
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

        encoder = Tokenizer(models.BPE(unk_token=UNKNOWN))
        encoder.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        begins = pre_tokenizers.Metaspace(prepend_scheme="always")
        encoder.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), begins])
        encoder.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.BpeTrainer(
            vocab_size=max(4, vocab_size) - 2, special_tokens=[PAD, UNKNOWN], show_progress=False
        )
        encoder.train_from_iterator(texts, trainer)
        encoder.add_special_tokens([START, END])
        ends = [(START, encoder.token_to_id(START)), (END, encoder.token_to_id(END))]
        encoder.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
        return cls(encoder, context_length)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        ids = [e.ids for e in self._encoder.encode_batch(list(texts))]
        return torch.tensor(ids, dtype=torch.int64).reshape(len(ids), self.context_length)

    def is_truncated(self, text: str) -> bool:
        return len(self._length.encode(text).ids) > self.context_length

    def unknown_words(self, text: str) -> list[str]:
        """Words that hold a character never seen, or that are spelled letter by letter: never seen as a word."""
        encoding: Any = self._length.encode(text, add_special_tokens=False)  # without them every token has a word
        ids: dict[int, list[int]] = {}
        for token, place in zip(encoding.ids, encoding.word_ids, strict=True):
            ids.setdefault(place, []).append(token)
        words = {place: text[slice(*encoding.word_to_chars(place))].lower() for place in ids}
        return [word for place, word in words.items() if self._is_unknown(word, ids[place])]

    def _is_unknown(self, word: str, ids: list[int]) -> bool:
        letter_by_letter = len(ids) >= len(word) > 1
        return word.isalnum() and (letter_by_letter or self._unknown in ids)

    def save(self, folder: Path) -> None:
        self._encoder.save(str(folder / "tokenizer.json"))


class NoTokenizer:
    """Of a model without a text tower."""

    kind, context_length, vocab_size = "none", 0, 0

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        raise UserError(NO_WORDS)

    def is_truncated(self, text: str) -> bool:
        return False

    def unknown_words(self, text: str) -> list[str]:
        return []

    def save(self, folder: Path) -> None:
        pass


def load_tokenizer(kind: str, context_length: int, folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote to a checkpoint folder."""
    if kind == "clip":
        return ClipTokenizer(context_length)
    if kind == NoTokenizer.kind:
        return NoTokenizer()
    if kind == "huggingface":
        options = read_json(folder / OPTIONS_FILE, "the options of a checkpoint's tokenizer")
        return HuggingFaceTokenizer(folder, context_length, **options)
    from tokenizers import Tokenizer as Encoder

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json; the checkpoint is incomplete, copy it again")
    return TrainedTokenizer(Encoder.from_file(str(file)), context_length)


def truncated_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of texts that lose words to the context length; equal texts are looked at once."""
    cut = {text: tokenizer.is_truncated(text) for text in set(texts)}
    return sum(cut[text] for text in texts) / max(1, len(texts))
