"""Pictures for participants' words: n of them each, in batches across participants, continued where it stopped.

    settings = Settings(model="stable-diffusion-1.5", n=4)
    generate(read_participants("preferences.csv"), "runs/generations", settings)

A picture depends on its prompt, its seed and the settings alone: not on its batch, nor on who else is asked for. The
noise is drawn on the processor, so a GPU begins with the same one. The folder is that of `fclip.generations`.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.diffusion import memory
from experiments.diffusion.participants import Participant
from experiments.diffusion.pipelines import add_ip_adapter, image_to_image, open_pipeline, picture_size
from experiments.diffusion.prompts import NEGATIVE, TEMPLATE, in_template, truncated
from fclip.errors import UserError
from fclip.files import writable_folder
from fclip.generations import Generation, continue_generations, keep, picture_name, seed_of

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_THE_PICTURE = ("attempt", "dtype", "measures", "device")  # settings that a continued folder may change


@dataclass(frozen=True)
class Settings:
    """What makes the pictures what they are."""

    model: str = "stable-diffusion-1.5"  # a published name, owner/name on the hub, or a folder
    n: int = 4  # pictures for each participant
    steps: int = 30  # of denoising
    guidance: float = 7.5  # how much the prompt counts
    height: int | None = None  # in pixels; None: what the model was made for
    width: int | None = None  # in pixels
    template: str = TEMPLATE  # around the participant's words
    negative: str = NEGATIVE  # what no picture should show, where the pipeline takes that
    seed: int = 0  # of all pictures; each has its own, made from it
    strength: float = 0.75  # image to image: how far from the photograph, 0 … 1
    lora: str | None = None  # adapters in diffusers' format
    lora_scale: float = 1.0  # of their updates
    ip_adapter: str | None = None  # through which photographs speak; None: image to image
    ip_scale: float = 0.6  # weight of the photographs
    retries: int = 2  # further seeds for a picture that the safety checker blackens


@dataclass(frozen=True)
class Machine:
    """How it is computed; None and auto: chosen from what is here."""

    batch_size: int = 4  # pictures at once
    device: str | None = None  # cuda, mps or cpu
    dtype: str | None = None  # float32, float16 or bfloat16
    mode: str = "auto"  # a key of `memory.MODES`


@dataclass(frozen=True)
class Task:
    """One picture to be made."""

    participant: Participant
    index: int
    prompt: str
    seed: int
    attempt: int = 0


def generate(
    participants: Sequence[Participant],
    out: str | Path,
    settings: Settings,
    machine: Machine | None = None,
    progress: bool = True,
) -> list[Generation]:
    """Makes what is not there yet, and returns all.

    Raises:
        UserError: anything in the wishes, the settings, the model or the folder that does not fit.
    """
    from tqdm.auto import tqdm

    machine, out = machine or Machine(), Path(out)
    tasks = tasks_of(participants, settings)
    check_settings(settings, machine, any(one.photos for one in participants))
    made = continue_generations(writable_folder(out, "--out"))
    check_same(made, tasks, settings, out)
    done = {(one.participant, one.index) for one in made}
    missing = [task for task in tasks if (task.participant.name, task.index) not in done]
    if missing:
        painter = Painter(settings, machine)
        _say_truncated(painter.pipe, missing)
        bar = tqdm(total=len(tasks), initial=len(made), desc="generating", unit="img", disable=not progress)
        with bar:
            for generation, picture in painted(painter, missing, machine.batch_size):
                keep(out, generation, picture)
                made.append(generation)
                bar.update()
    _say_flagged(made)
    return sorted(made, key=lambda one: (one.participant, one.index))


def tasks_of(participants: Sequence[Participant], settings: Settings) -> list[Task]:
    """All pictures that are asked for, participant by participant."""
    return [
        Task(one, index, in_template(one.text, settings.template), seed_of(settings.seed, one.name, index))
        for one in participants
        for index in range(settings.n)
    ]


def painted(painter: Painter, tasks: Sequence[Task], batch_size: int) -> Iterator[tuple[Generation, Image]]:
    """Every picture as soon as its batch is made; blackened ones are tried again with further seeds."""
    settings, waiting = painter.settings, deque(tasks)
    while waiting:
        batch = _next_batch(waiting, batch_size, settings.ip_adapter is not None)
        pictures, flags, seconds, peak = painter.paint(batch)
        for task, picture, flagged in zip(batch, pictures, flags, strict=True):
            if flagged and task.attempt < settings.retries:
                attempt = task.attempt + 1
                seed = seed_of(settings.seed, task.participant.name, task.index, attempt)
                waiting.append(replace(task, seed=seed, attempt=attempt))
                continue
            about = wanted(task, settings) | painter.about | {"attempt": task.attempt}
            name = picture_name(task.participant.name, task.index)
            yield Generation(
                name, task.participant.name, task.index, task.prompt, settings.negative, task.seed, settings.model,
                round(seconds / len(batch), 4), about, peak, flagged,
            ), picture  # fmt: skip


def _next_batch(waiting: deque[Task], size: int, alone: bool) -> list[Task]:
    """Tasks that one call can make: with photographs or without.

    `alone`: of one participant where there are photographs, since diffusers gives an IP-Adapter's to a whole batch.
    """
    first = waiting.popleft()
    batch = [first]
    while waiting and len(batch) < size:
        other = waiting[0]
        same = bool(other.participant.photos) == bool(first.participant.photos)
        if not same or (alone and first.participant.photos and other.participant != first.participant):
            break
        batch.append(waiting.popleft())
    return batch


class Painter:
    """A pipeline that is ready: loaded, where it should be, with the measures that make it fit."""

    def __init__(self, settings: Settings, machine: Machine) -> None:
        self.settings = settings
        device = machine.device or memory.pick_device()
        dtype = machine.dtype or memory.pick_dtype(device)
        self.pipe = open_pipeline(settings.model, dtype, settings.lora, settings.lora_scale)
        if settings.ip_adapter is not None:
            add_ip_adapter(self.pipe, settings.ip_adapter, settings.ip_scale)
        own = picture_size(self.pipe)
        self.size = (settings.height or own[0], settings.width or own[1])
        self.plan = self._plan(machine, device, dtype)
        memory.apply(self.pipe, self.plan)
        self.about = {"scheduler": type(self.pipe.scheduler).__name__, "dtype": dtype, "device": device}
        self.about |= {"measures": list(self.plan.measures)}
        self._from_image: Any = None

    def _plan(self, machine: Machine, device: str, dtype: str) -> memory.Plan:
        if machine.mode != "auto":
            return memory.Plan(device, dtype, memory.measures_of(machine.mode, device))
        counts, pixels = memory.parameters(self.pipe), self.size[0] * self.size[1]
        return memory.choose(counts, pixels, machine.batch_size, device, dtype, memory.free_bytes(device))

    def paint(self, tasks: Sequence[Task]) -> tuple[list[Image], list[bool], float, float | None]:
        """One batch: pictures, whether each was blackened by the safety checker, seconds, and most memory in MB."""
        import torch

        memory.reset_peak(self.plan.device)
        call, arguments = self._call(tasks)
        began = time.monotonic()
        with memory.told_when_full(len(tasks), self.plan), torch.inference_mode():
            result = call(**arguments)
        seconds = time.monotonic() - began
        flags = getattr(result, "nsfw_content_detected", None) or [False] * len(tasks)
        return result.images, [bool(flag) for flag in flags], seconds, memory.peak_mb(self.plan.device)

    def _call(self, tasks: Sequence[Task]) -> tuple[Any, dict[str, Any]]:
        """The pipeline for a batch, and what it is called with: of what we have to say, what it understands."""
        import torch

        settings = self.settings
        generators = [torch.Generator("cpu").manual_seed(task.seed) for task in tasks]
        arguments: dict[str, Any] = {"prompt": [task.prompt for task in tasks], "generator": generators}
        arguments |= {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
        arguments |= {"negative_prompt": [settings.negative] * len(tasks)}
        pipe, photos = self.pipe, [task.participant.photos for task in tasks]
        if photos[0] and settings.ip_adapter is None:
            pipe = self._image_pipe()
            chosen = [of[task.index % len(of)] for of, task in zip(photos, tasks, strict=True)]
            arguments |= {"image": [self._photo(photo) for photo in chosen], "strength": settings.strength}
        else:
            arguments |= {"height": self.size[0], "width": self.size[1]}
        if settings.ip_adapter is not None:  # an adapter always wants a picture; a white one says nothing
            arguments |= {"ip_adapter_image": [[self._photo(photo) for photo in photos[0]] or [self._white()]]}
            pipe.set_ip_adapter_scale(settings.ip_scale if photos[0] else 0.0)
        known = inspect.signature(pipe.__call__).parameters
        return pipe, {name: value for name, value in arguments.items() if name in known}

    def _image_pipe(self) -> Any:
        if self._from_image is None:
            self._from_image = image_to_image(self.pipe)
        return self._from_image

    def _photo(self, file: Path) -> Image:
        """A photograph, whole, on white, in the size of what is made."""
        from PIL import ImageOps

        from fclip.images import decode

        return ImageOps.pad(decode(file), (self.size[1], self.size[0]), color="white")

    def _white(self) -> Image:
        from PIL import Image

        return Image.new("RGB", (self.size[1], self.size[0]), "white")


def wanted(task: Task, settings: Settings) -> dict[str, Any]:
    """What a picture's line says of how it was asked for; what a continued folder must agree on."""
    about: dict[str, Any] = {"text": task.participant.text}
    about |= {key: asdict(settings)[key] for key in ("steps", "guidance", "height", "width")}
    if settings.lora:
        about |= {"lora": settings.lora, "lora_scale": settings.lora_scale}
    if not task.participant.photos:
        return about | {"mode": "text"}
    about |= {"photos": [photo.name for photo in task.participant.photos]}
    if settings.ip_adapter:
        return about | {"mode": "ip-adapter", "ip_adapter": settings.ip_adapter, "ip_scale": settings.ip_scale}
    return about | {"mode": "image-to-image", "strength": settings.strength}


def check_settings(settings: Settings, machine: Machine, photos: bool) -> None:
    """Raises UserError for numbers that no pipeline takes; `photos`: whether any goes image to image."""
    for name, value, low in (
        ("-n", settings.n, 1),
        ("--steps", settings.steps, 1),
        ("--batch-size", machine.batch_size, 1),
    ):
        if value < low:
            raise UserError(f"expected {name} of at least {low}, got {value}")
    for name, side in (("--height", settings.height), ("--width", settings.width)):
        if side is not None and (side < 8 or side % 8):
            raise UserError(f"expected {name} in pixels, a multiple of 8, got {side}")
    if photos and (not 0 < settings.strength <= 1 or settings.strength * settings.steps < 1):
        raise UserError(f"expected --strength of 1/steps to 1, got {settings.strength} with {settings.steps} steps")
    if machine.dtype is not None and machine.dtype not in memory.BYTES:
        raise UserError(f"expected --dtype {', '.join(memory.BYTES)}, got {machine.dtype!r}")


def check_same(made: Sequence[Generation], tasks: Sequence[Task], settings: Settings, out: Path) -> None:
    """Raises UserError when a folder holds pictures that were asked for in another way, or of others."""
    asked = {(task.participant.name, task.index): task for task in tasks}
    for one in made:
        task = asked.get((one.participant, one.index))
        if task is None:
            raise UserError(f"{out} holds {one.file}, which is not asked for now; choose another --out")
        now = {"prompt": task.prompt, "negative": settings.negative, "model": settings.model} | wanted(task, settings)
        was = {"prompt": one.prompt, "negative": one.negative_prompt, "model": one.model} | dict(one.settings)
        now["seed"] = seed_of(settings.seed, one.participant, one.index, one.settings.get("attempt", 0))
        was["seed"] = one.seed
        other = [key for key in now if now[key] != was.get(key) and key not in NOT_THE_PICTURE]
        if other:
            key = other[0]
            raise UserError(f"{out} holds pictures of another {key}: {was.get(key)!r}, now {now[key]!r}; choose "
                            "another --out, or ask as before")  # fmt: skip


def _say_truncated(pipe: Any, tasks: Sequence[Task]) -> None:
    found = truncated(pipe, [task.prompt for task in tasks])
    if found:
        most, (prompt, lost) = pipe.tokenizer.model_max_length, next(iter(found.items()))
        print(f"note: {len(found)} prompts are longer than the {most} tokens that the model reads; of {prompt[:40]!r}… "
              f"it does not see {lost!r}", file=sys.stderr)  # fmt: skip


def _say_flagged(made: Sequence[Generation]) -> None:
    black = [one.file for one in made if one.flagged]
    if black:
        print(f"note: the safety checker blackened {len(black)} of {len(made)} pictures, e.g. {black[0]}; another "
              "--seed gives others", file=sys.stderr)  # fmt: skip
