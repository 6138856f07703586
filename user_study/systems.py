"""The systems that a study compares, and what makes their pictures look alike.

    systems = open_systems(study)
    recommendations = systems["tuned"].recommend(wish, n=4, progress=print)

    index      the best products of an fclip index
    folder     pictures made beforehand, by `python -m experiments.diffusion generate` or whatever else writes
               `fclip.generations`: those of the participant whose name the invitation holds (/?participant=0001), or
               the pseudonym; for a shared query those of the participant named like the query's text
    diffusion  pictures drawn on demand by a diffusers pipeline, from words; with `strength` from photographs too

Every picture is brought to one size on white and to one encoding: neither sharpness nor bytes tell where it is from.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fclip.errors import UserError
from fclip.serving.uploads import as_jpeg
from user_study.jobs import Recommendation, Wish

if TYPE_CHECKING:
    from PIL.Image import Image

    from fclip.recommend import Recommender
    from user_study.config import Study, System

SIDE_PX = 256  # of the longer side in an index: larger ones would be sharper than those
STEPS, GUIDANCE = 30, 7.5
PROMPT = "A photo of {}, on a white background, product photography"
FIRST_FILTER_VALUES = 60
Progress = Callable[[float], None]


class Answering(Protocol):
    """A system, as the study asks it."""

    def recommend(self, wish: Wish, n: int, progress: Progress) -> list[Recommendation]:
        """At most n pictures, best first; told 0 … 1 while it works. Whatever it raises is its failure."""
        ...


def as_shown(picture: Image) -> bytes:
    """A picture as every participant sees every picture: as large as it fits on a white square."""
    from PIL import Image, ImageOps

    fitted = ImageOps.contain(picture.convert("RGB"), (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    canvas.paste(fitted, ((SIDE_PX - fitted.width) // 2, (SIDE_PX - fitted.height) // 2))
    return as_jpeg(canvas)


class IndexSystem:
    """An fclip index."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender

    def recommend(self, wish: Wish, n: int, progress: Progress) -> list[Recommendation]:
        """The best products; filters as the index understands them."""
        from PIL import Image

        photographs = [{"bytes": data, "path": None} for data in wish.photographs]
        texts = [wish.text] if wish.text else []
        found = self.recommender.ask(texts, photographs, where=wish.filters, k=n)
        return [
            Recommendation(one.item, as_shown(Image.open(io.BytesIO(one.thumbnail), formats=("JPEG",))))
            for one in found
        ]

    def values(self, group: str) -> list[str]:
        """What an attribute can be filtered by, the most frequent first."""
        counts = self.recommender.index.values(group)
        return sorted(counts, key=lambda value: -counts[value])


class FolderSystem:
    """Pictures made beforehand; read when asked, so that a generator may still be adding."""

    def __init__(self, folder: str | Path, shared: Sequence[str] = ()) -> None:
        self.folder, self.shared = Path(folder), shared

    def recommend(self, wish: Wish, n: int, progress: Progress) -> list[Recommendation]:
        """This participant's pictures, in their order."""
        from PIL import Image

        from fclip.generations import read_generations

        names = [wish.external, wish.participant]
        if wish.calibration is not None:
            names = [self.shared[wish.calibration]]
        elif wish.number:
            names = [f"{name}-{wish.number}" for name in names if name]
        generations = read_generations(self.folder)
        for name in filter(None, names):
            if found := [one for one in generations if one.participant == name][:n]:
                return [
                    Recommendation(one.file, as_shown(Image.open(self.folder / one.file, formats=("PNG", "JPEG"))))
                    for one in found
                ]
        raise UserError(f"no pictures for {' or '.join(filter(None, names))} in {self.folder}")


class DiffusionSystem:
    """A diffusers pipeline; loaded when first asked."""

    def __init__(self, path: str, seed: int = 0, strength: float | None = None) -> None:
        self.path, self.seed, self.strength = path, seed, strength

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, where it computes fastest."""
        import torch
        from diffusers import DiffusionPipeline

        on_gpu = torch.cuda.is_available()
        dtype = torch.float16 if on_gpu else torch.float32
        pipeline = DiffusionPipeline.from_pretrained(self.path, dtype=dtype, use_safetensors=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to("cuda" if on_gpu else "cpu")

    @cached_property
    def from_photograph(self) -> Any:
        """The same components, image to image (Meng et al. 2022, SDEdit)."""
        from diffusers import AutoPipelineForImage2Image

        pipeline = AutoPipelineForImage2Image.from_pipe(self.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def recommend(self, wish: Wish, n: int, progress: Progress) -> list[Recommendation]:
        """Pictures of the words and of the filters' values; with a strength each begins from the next photograph."""
        import torch

        from fclip.generations import seed_of

        words = ", ".join([wish.text, *(str(value) for value in (wish.filters or {}).values())]).strip(", ")
        made = []
        for index in range(n):
            seed = seed_of(self.seed, f"{wish.participant}-{wish.number}", index)
            pipeline, begin, steps = self.pipeline, {}, STEPS
            if wish.photographs and self.strength is not None:
                pipeline, steps = self.from_photograph, int(STEPS * self.strength)
                photograph = wish.photographs[index % len(wish.photographs)]
                begin = {"image": self._canvas(photograph), "strength": self.strength}

            def step(
                _: Any, number: int, __: Any, kept: dict[str, Any], done: int = index, steps: int = steps
            ) -> dict[str, Any]:
                progress((done + (number + 1) / steps) / n)
                return kept

            result = pipeline(
                prompt=PROMPT.format(words), num_inference_steps=STEPS, guidance_scale=GUIDANCE, **begin,
                generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=step,
            )  # fmt: skip
            if any(getattr(result, "nsfw_content_detected", None) or []):
                raise RuntimeError("the pipeline's safety checker refused a picture")
            made.append(Recommendation(f"generated-{seed}", as_shown(result.images[0])))
        return made

    def _canvas(self, photograph: bytes) -> Image:
        """A photograph, whole, on white, in the size that the model draws."""
        from PIL import Image, ImageOps

        core = getattr(self.pipeline, "unet", None) or self.pipeline.transformer
        side = core.config.sample_size * self.pipeline.vae_scale_factor
        opened = Image.open(io.BytesIO(photograph), formats=("JPEG",)).convert("RGB")
        return ImageOps.pad(opened, (side, side), color="white")


def open_systems(study: Study) -> dict[str, Answering]:
    """All systems of a study, ready to be asked.

    Raises:
        UserError: one cannot be opened.
    """
    return {system.name: _open(system, study) for system in study.systems}


def filter_values(study: Study, systems: Mapping[str, Answering]) -> dict[str, list[str]]:
    """Attribute → the values that every index knows, for participants to choose from.

    Raises:
        UserError: filters without an index, or an attribute that an index lacks.
    """
    indexes = [system for system in systems.values() if isinstance(system, IndexSystem)]
    if study.filters and not indexes:
        raise UserError("filters need a system of kind index, whose attributes they are; leave filters out")
    found = {}
    for group in study.filters:
        try:
            known = [index.values(group) for index in indexes]
        except UserError as error:
            raise UserError(f"filters: {error}") from None
        shared = [value for value in known[0] if all(value in others for others in known[1:])]
        found[group] = sorted(shared[:FIRST_FILTER_VALUES])
    return found


def _open(system: System, study: Study) -> Answering:
    if system.kind == "index":
        from fclip.recommend import Recommender

        try:
            return IndexSystem(Recommender.open(system.path))
        except UserError as error:
            raise UserError(f"system {system.name!r}: {error}") from None
    if system.kind == "folder":
        if not Path(system.path).is_dir():
            raise UserError(f"system {system.name!r}: expected a folder of pictures, found none at {system.path}")
        return FolderSystem(system.path, [query.text for query in study.calibration])
    return DiffusionSystem(system.path, study.seed, system.strength)
