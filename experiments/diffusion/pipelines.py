"""Text-to-image pipelines by name or folder, with adapters; weights are safetensors, and no code comes with a model.

    pipe = open_pipeline("stable-diffusion-1.5", "bfloat16")
    pipe = open_pipeline("models/sd15", lora="runs/diffusion/lora")

A folder is checked before it is loaded: a component that is missing, cut off or pickled is named in one line.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from fclip.errors import UserError
from fclip.files import expand, read_json

PUBLISHED = {
    "stable-diffusion-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stable-diffusion-2.1": "stabilityai/stable-diffusion-2-1",
    "stable-diffusion-xl": "stabilityai/stable-diffusion-xl-base-1.0",
    "stable-diffusion-3.5": "stabilityai/stable-diffusion-3.5-medium",
}
"""Short names; any other owner/name is looked for on the hub."""
LIBRARIES = ("diffusers", "transformers")
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name


def open_pipeline(name: str, dtype: str = "float32", lora: str | None = None, lora_scale: float = 1.0) -> Any:
    """A pipeline on the CPU, in evaluation mode, its safety checker kept where it has one.

    Args:
        name: a key of `PUBLISHED`, owner/name on the hub, or a folder in diffusers' format.
        dtype: float32, float16 or bfloat16.
        lora: a folder or file of adapters in diffusers' format.
        lora_scale: of the adapters' updates.

    Raises:
        UserError: nothing there, a damaged folder, pickled weights, or adapters of another model.
    """
    quiet()
    place = expand(name)
    source = place if Path(place).is_dir() else PUBLISHED.get(name, name)
    if Path(source).is_dir():
        check_folder(Path(source))
    elif _looks_like_a_path(source):
        raise UserError(f"no model folder {source}; known names: {', '.join(PUBLISHED)}, or owner/name on the hub")
    pipe = _load(source, dtype)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        add_lora(pipe, lora, lora_scale)
    return pipe


def check_folder(folder: Path) -> None:
    """Raises UserError when a folder in diffusers' format lacks a component, or has one that must not be loaded."""
    index = read_json(folder / "model_index.json", "a diffusers pipeline's model_index.json")
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{folder / 'model_index.json'} names no pipeline of diffusers; code of others is not run")
    for component, entry in index.items():
        if component.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        _check_component(folder, component, entry)


def image_to_image(pipe: Any) -> Any:
    """The same components as an image-to-image pipeline.

    Raises:
        UserError: diffusers has none for this model.
    """
    from diffusers import AutoPipelineForImage2Image

    try:
        other = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError:
        raise UserError(f"{type(pipe).__name__} has no image-to-image form; leave the photographs out, or name an "
                        "--ip-adapter") from None  # fmt: skip
    other.set_progress_bar_config(disable=True)
    return other


def add_lora(pipe: Any, source: str, scale: float = 1.0) -> None:
    """Loads adapters that were saved in diffusers' format.

    Raises:
        UserError: no such file, or adapters of another architecture.
    """
    place = Path(expand(source))
    file = place / LORA_FILE if place.is_dir() else place
    if not file.is_file():
        raise UserError(f"expected adapters in {file}, found none; training writes OUT/lora/{LORA_FILE}")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no .safetensors file; pickled adapters are not loaded")
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"{type(pipe).__name__} takes no adapters; leave out --lora")
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="fclip")
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"the adapters in {file} do not fit this model: {_first_line(error)}") from None
    if not any(".lora_A." in name for part in _modules(pipe) for name, _ in part.named_parameters()):
        raise UserError(f"the adapters in {file} are of another model: none of them has a place in this one")
    pipe.set_adapters("fclip", scale)


def add_ip_adapter(pipe: Any, source: str, scale: float = 0.6) -> None:
    """Loads an IP-Adapter (Ye et al. 2023), through which photographs speak beside the words.

    Args:
        source: a .safetensors file with image_encoder/ beside it, or owner/name:folder/file.safetensors on the hub.
        scale: weight of the photographs, 0 … 1.

    Raises:
        UserError: none there, or one that does not fit.
    """
    file = Path(expand(source))
    owner, _, inside = source.partition(":")
    where = (str(file.parent), "", file.name)
    if not file.is_file():
        if not inside:
            raise UserError(f"no IP-Adapter {source}; name a .safetensors file, or owner/name:folder/file.safetensors")
        where = (owner, str(Path(inside).parent), Path(inside).name)
    if not where[2].endswith(".safetensors"):
        raise UserError(f"{source} is no .safetensors file; a pickled IP-Adapter is not loaded")
    if not hasattr(pipe, "load_ip_adapter"):
        raise UserError(f"{type(pipe).__name__} takes no IP-Adapter; leave it out: photographs then go image to image")
    if getattr(pipe, "image_encoder", None) is None and file.is_file() and not (file.parent / "image_encoder").is_dir():
        raise UserError(f"{file.parent} lacks the IP-Adapter's image_encoder/; copy it there")
    try:
        pipe.load_ip_adapter(where[0], subfolder=where[1], weight_name=where[2])
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise UserError(f"cannot load the IP-Adapter {source}: {_first_line(error)}") from None
    pipe.set_ip_adapter_scale(scale)


def picture_size(pipe: Any) -> tuple[int, int]:
    """(height, width) in pixels that the model was made for."""
    core = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    side = getattr(getattr(core, "config", None), "sample_size", None)
    sides = (side, side) if isinstance(side, int) else tuple(side or (64, 64))
    factor = getattr(pipe, "vae_scale_factor", 8)
    return sides[0] * factor, sides[-1] * factor


def quiet() -> None:
    """Loading bars and advice of the libraries would bury what the user must know; what matters is said by us."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _load(source: str, dtype: str) -> Any:
    import torch
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        try:
            return AutoPipelineForText2Image.from_pretrained(source, **options)
        except ValueError as error:
            if "AutoPipeline can't find" not in str(error):
                raise _unusable(source, error) from None
        except (OSError, RuntimeError, KeyError) as error:
            raise _unusable(source, error) from None
        try:
            return DiffusionPipeline.from_pretrained(source, **options)
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            raise _unusable(source, error) from None


def _unusable(source: str, error: Exception) -> UserError:
    if Path(source).is_dir():
        return UserError(f"cannot load the model in {source}: {_first_line(error)}; copy it again")
    return UserError(
        f"cannot load {source} from the hub or its cache: {_first_line(error)}; check the name and the network (a "
        "download that was interrupted goes on when asked again), or give a folder in diffusers' format"
    )


def _check_component(folder: Path, component: str, entry: list[Any]) -> None:
    library, kind = entry
    place = folder / component
    if library not in LIBRARIES and not _is_of_diffusers(library):
        raise UserError(f"{folder}: its {component} wants code of its own ({library}.{kind}), which is not run")
    if not place.is_dir() or not any(place.iterdir()):
        raise UserError(f"{folder} lacks its component {component} ({kind}): no folder {place}; copy the model again")
    if "Scheduler" in kind or "Tokenizer" in kind or "Processor" in kind or "FeatureExtractor" in kind:
        return
    if not (place / "config.json").is_file():
        raise UserError(f"{folder}: its {component} ({kind}) lacks {place / 'config.json'}; copy the model again")
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        pickled = next(place.glob("*.bin"), None) or next(place.glob("*.ckpt"), None)
        why = f"only pickled ones ({pickled.name}), which are not loaded" if pickled else "no *.safetensors"
        raise UserError(f"{folder}: its {component} ({kind}) has no weights: {why}; copy or convert the model")
    for file in weights:
        _check_weights(file)


def _check_weights(file: Path) -> None:
    """Raises UserError when a safetensors file is shorter than its header says: an interrupted download or copy."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length < 100_000_000 else b""
    try:
        ends = [entry["data_offsets"][1] for key, entry in json.loads(header).items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        ends = [1 << 62]
    if 8 + length + max(ends, default=0) != file.stat().st_size:
        raise UserError(f"{file} is damaged or was cut off; copy or download it again")


def _is_of_diffusers(library: str) -> bool:
    """Whether a component's module is one of diffusers' own pipelines, as the safety checker's is."""
    from diffusers import pipelines

    return hasattr(pipelines, library)


def _looks_like_a_path(source: str) -> bool:
    return source.count("/") != 1 or source.startswith((".", "/", "~"))


def _modules(pipe: Any) -> list[Any]:
    import torch

    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
