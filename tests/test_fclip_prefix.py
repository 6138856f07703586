"""Texts without the padding behind them: the vectors and the gradients of open_clip's own encoding."""

from __future__ import annotations

import pytest
import torch
from open_clip import CLIP, CustomTextCLIP

from fclip.embedding import embed_texts
from fclip.prefix import prefix_of

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 20, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
END = 59


def tower(kind=CustomTextCLIP, **text):
    torch.manual_seed(0)
    return kind(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT | text).double()


def tokens(pad: int = 0) -> torch.Tensor:
    """Texts of 3, 7 and 5 tokens, padded to 20."""
    rows = torch.full((3, 20), pad)
    for row, length in enumerate((3, 7, 5)):
        rows[row, :length] = torch.randint(1, 50, (length,))
        rows[row, length - 1] = END
    return rows


def encoded(clip, encode, rows):
    clip.zero_grad()
    found = encode(rows)
    found.square().sum().backward()
    return found.detach(), {name: p.grad for name, p in clip.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text", [{}, {"pool_type": "eos", "eos_id": END}, {"proj_bias": True}, {"proj_type": "none"}])
def test_the_vectors_and_gradients_are_open_clips_own(kind, text):
    clip, rows = tower(kind, **text), tokens()
    prefix = prefix_of(clip)
    short = prefix.cut(rows)
    assert short.shape == (3, 7)
    torch.testing.assert_close(encoded(clip, prefix.encode, short), encoded(clip, clip.encode_text, rows))


def test_padding_with_the_end_token_is_cut_too():
    """As CLIP's tokenizers of transformers pad."""
    clip, rows = tower(), tokens(pad=END)
    assert prefix_of(clip).cut(rows).shape == (3, 7)
    torch.testing.assert_close(prefix_of(clip).encode(rows[:, :7]), clip.encode_text(rows))


@pytest.mark.parametrize(
    "text", [{"pool_type": "last"}, {"no_causal_mask": True}, {"embed_cls": True}, {"output_tokens": True}]
)
def test_a_tower_that_looks_at_what_stands_behind_is_left_alone(text):
    assert prefix_of(tower(**text)) is None


def test_without_texts_nothing_is_cut():
    assert prefix_of(tower()).cut(tokens()[:0]).shape == (0, 20)


def test_a_model_embeds_texts_as_it_would_with_their_padding(vit):
    texts = ["red dress", "a much longer caption of a dress, " * 9, "x"]
    vit.eval()
    with torch.no_grad():
        whole = vit.encode_text(vit.tokenizer(texts))
    torch.testing.assert_close(torch.from_numpy(embed_texts(vit, texts)), whole)
    short = vit.cut(vit.tokenizer(texts[:1]))
    assert short.shape == (1, 4)  # start, red, dress, end
    torch.testing.assert_close(vit.encode_text(short), whole[:1])


def test_a_model_without_a_text_tower_has_nothing_to_cut():
    from fclip.image_only import ImageOnly

    assert prefix_of(ImageOnly("timm", "test_resnet", ["avg"], [32, 32])) is None
