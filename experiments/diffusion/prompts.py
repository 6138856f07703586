"""Words → prompts: a template around what a participant wrote, and what no picture should show.

    prompt = in_template("red summer dress")
    print(truncated(pipe, [prompt]))      # {prompt: the words that the encoder does not see}

The participant's words come first: what an encoder cannot take is cut off at the end, and that is the template's. It
asks for the garment alone, because the faces that Stable Diffusion drew frightened the paper's participants (section
6.3: "terrifying").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fclip.errors import UserError

TEMPLATE = "{text}, catalogue photo of the garment alone, plain white background, soft studio light, sharp focus"
NEGATIVE = "person, face, mannequin, deformed, collage, cropped, text, watermark, logo, blurry, low quality"


def in_template(text: str, template: str = TEMPLATE) -> str:
    """A prompt.

    Raises:
        UserError: no words, or a template without a place for them.
    """
    if not text.strip():
        raise UserError("expected words to draw, got an empty prompt")
    if "{text}" not in template:
        raise UserError(f"the template needs a place for the words: {{text}}, got {template!r}")
    return template.replace("{text}", text.strip())


def truncated(pipe: Any, prompts: Sequence[str]) -> dict[str, str]:
    """Prompt → the end of it that the pipeline's first text encoder does not see, where there is such an end."""
    tokenizer = getattr(pipe, "tokenizer", None)
    most = getattr(tokenizer, "model_max_length", None)
    if tokenizer is None or not most or most > 100_000:  # some have no limit, and say so by a huge number
        return {}
    found = {}
    for prompt in dict.fromkeys(prompts):
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > most:
            found[prompt] = tokenizer.decode(ids[most - 1 : -1]).strip()  # the last place is the end-of-text token's
    return found
