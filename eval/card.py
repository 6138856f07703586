"""A model card in the Hugging Face hub's format (https://huggingface.co/docs/hub/model-cards) from results.

    python -m eval card plain.json --checkpoint runs/plain/best --license apache-2.0

The front matter (licence, library, tags, model-index with every score that is a number) is made and checked by
`huggingface_hub`; the text is `templates/card.md.j2`. What the model is and how it was trained come from the
checkpoint's model.json and preset.yaml, or from an export's fclip.json; how good it is from the results alone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.compare import BASELINES, HEADLINE
from eval.html import TEMPLATES
from eval.page import flat, read_shared
from eval.report import Cell, Table, markdown, score
from eval.scores import find, of_group
from fclip.errors import UserError
from fclip.files import read_json, writable, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

Result = dict[str, Any]
TASK = "zero-shot-image-classification"
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY-NC 4.0": "cc-by-nc-4.0"}  # ours → the hub's
TOLD = ("name", "weights", "image_tower", "image_size")  # keys of the preset's model that are told


@dataclass(frozen=True)
class About:
    """What a folder says of its model."""

    folder: Path
    name: str
    fingerprint: str
    form: str  # fclip, transformers, open_clip or onnx
    groups: list[str]  # attributes that its captions name; of an export unknown
    captions: str  # their template
    size: tuple[int, int] | None  # of a picture, in pixels
    preset: dict[str, Any]  # of the training; empty when unknown


def write_card(
    checkpoint: str | Path, paths: Sequence[str | Path], out: str | Path | None = None, licence: str | None = None
) -> Path:
    """Writes the card, README.md in the checkpoint's folder when no place is given; returns where it is.

    Args:
        checkpoint: a checkpoint's folder, or an export of it.
        paths: results of this model.
        licence: of the weights, as the hub calls it; None: that of the published model it started from, else unknown.

    Raises:
        UserError: the folder is neither, or a result is of another model.
    """
    about = describe(Path(checkpoint))
    results = [read_shared(Path(path)) for path in paths]
    target = writable(about.folder / "README.md" if out is None else out)
    write_text(target, str(make_card(about, results, licence)))
    return target


def describe(folder: Path) -> About:
    """Reads a checkpoint's or an export's folder, not its weights."""
    if (folder / "model.json").is_file():
        said, form = read_json(folder / "model.json", "a checkpoint's card"), "fclip"
    elif (folder / "fclip.json").is_file():
        said = read_json(folder / "fclip.json", "what an export tells")
        form = said.get("to")
    else:
        raise UserError(f"expected model.json or fclip.json in {folder}; name a checkpoint's folder or an export of it")
    try:
        name, fingerprint = said["name"], said["fingerprint"]
    except KeyError as error:
        raise UserError(f"{folder} does not tell the model's {error}; write it again") from None
    captions = said.get("captions", {}).get("template", "")
    size = tuple(said.get("preprocess", {}).get("size", ())) or None
    return About(folder, name, fingerprint, form, _groups(captions), captions, size, _preset(folder))


def make_card(about: About, results: Sequence[Result], licence: str | None = None) -> ModelCard:
    """The card; raises UserError when a result is of another model."""
    from huggingface_hub import ModelCard, ModelCardData

    for result in results:
        if result["model"]["fingerprint"] != about.fingerprint:
            told = f"{result['model']['name']} ({result['model']['fingerprint']})"
            raise UserError(
                f"a result is of the model {told}, not of {about.folder} ({about.fingerprint}); evaluate it"
            )
    start, published = _start(about.preset)
    data = ModelCardData(
        license=licence or (LICENCES.get(published, "other") if published else "unknown"),
        license_name=None if licence or not published or published in LICENCES else published,
        library_name="fclip" if about.form == "fclip" else about.form,
        pipeline_tag=TASK,
        tags=["clip", "fashion", "image-text-retrieval", "multimodal", "fclip"],
        language="en",
        base_model=_on_the_hub(start),
        model_name=about.name,
        eval_results=[score for result in results for score in eval_results(result)] or None,
    )
    texts: dict[str, Any] = {"about": about, "trained": training(about.preset), "start": start, "licence": published}
    texts |= {"tables": [markdown(table) for result in results for table in tables(result)], "limits": limits(results)}
    texts |= {"commands": [portable(result["command"]) for result in results if result.get("command")]}
    card = ModelCard.from_template(data, template_path=str(TEMPLATES / "card.md.j2"), **texts)
    return ModelCard(re.sub(r"\n{3,}", "\n\n", str(card)))


def eval_results(result: Result) -> list[EvalResult]:
    """Every score that has a value, for the model-index."""
    from huggingface_hub import EvalResult

    where = ", ".join(Path(name).name for name in result.get("catalogue", [])) or "catalogue"
    return [
        EvalResult(
            task_type=TASK,
            task_name=result["protocol"],
            dataset_type="fclip-catalogue",
            dataset_name=where,
            dataset_split=result.get("split"),
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=value["value"],
            metric_args=_interval(value),
        )
        for name, value in flat(result["metrics"]).items()
        if value["value"] is not None
    ]


def tables(result: Result) -> list[Table]:
    """Scores beside their baselines; of surfacing also those of the attribute groups."""
    baselines = {k: v for k, v in result.get("baselines", {}).items() if isinstance(v, Mapping) and k != "left_out"}
    everyone = [result["metrics"], *baselines.values()]
    counts = ", ".join(f"{value} {key}" for key, value in result.get("counts", {}).items() if _told(key, value))
    title = f"{result['protocol'].capitalize()}, split {result.get('split', '?')}: {counts}"
    made = Table(title, ["", "this model", *[BASELINES.get(key, key) for key in baselines]])
    if result["protocol"] != "surfacing":
        found = [flat(metrics) for metrics in everyone]
        made.rows.extend([Cell(name), *[score(metrics.get(name)) for metrics in found]] for name in found[0])
        return [made]
    names = {name: shown for name, shown in HEADLINE.items() if name != "cosine"}
    names |= {of_group(group): group for group in result["groups"]}
    made.rows.extend(
        [Cell(shown), *[score(find(metrics, name)) for metrics in everyone]] for name, shown in names.items()
    )
    return [made]


def training(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What of the preset a reader wants to know."""
    if not preset:
        return {}
    data, model = preset.get("data", {}), preset.get("model", {})
    told = {"catalogue": ", ".join(Path(name).name for name in data.get("catalogue", []))}
    told |= {f"model.{key}": model[key] for key in TOLD if model.get(key) is not None and model[key] != ""}
    if (transform := model.get("stn", {}).get("transform", "none")) != "none":
        told["model.stn.transform"] = transform
    told |= {key: preset[key] for key in ("epochs", "batch_size", "seed") if key in preset}
    told |= {f"optim.{key}": preset["optim"][key] for key in ("lr", "weight_decay") if key in preset.get("optim", {})}
    told |= {f"loss.{key}": value for key, value in preset.get("loss", {}).items() if isinstance(value, str)}
    return told


def portable(command: str) -> str:
    """A command without the folders of whoever ran it: a card is published."""
    return shlex.join(Path(word).name if "/" in word else word for word in shlex.split(command))


def limits(results: Sequence[Result]) -> list[str]:
    """What the results themselves say against the model."""
    told = []
    for result in results:
        counts = result.get("counts", {})
        if result.get("products_in_train"):
            told.append(
                f"{result['products_in_train']} products measured were in training too: the scores are too good."
            )
        if counts.get("ties"):
            told.append(f"{counts['ties']} pictures had tied nearest captions; they count against the model.")
        if counts.get("unreadable"):
            told.append(f"{counts['unreadable']} pictures could not be read and were left out.")
        groups = result["metrics"].get("attribute_sfa_by_group", {})
        known = {group: found["value"] for group, found in groups.items() if found["value"] is not None}
        if known:
            weak = min(known, key=lambda group: known[group])
            told.append(f"Of the attributes, {weak} is recognised worst ({known[weak]:.3f}).")
    return told


def _groups(template: str) -> list[str]:
    from fclip.captions import Captions

    return list(Captions(template).groups) if template else []


def _preset(folder: Path) -> dict[str, Any]:
    import yaml

    file = folder / "preset.yaml"
    if not file.is_file():
        return {}
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}; copy the checkpoint again") from None


def _start(preset: Mapping[str, Any]) -> tuple[str, str]:
    """The published model that training started from and its licence, or empty."""
    from fclip.published import PUBLISHED

    name = str(preset.get("model", {}).get("name", ""))
    return (name, PUBLISHED[name].licence) if name in PUBLISHED else (name if name.startswith("hf-hub:") else "", "")


def _on_the_hub(start: str) -> str | None:
    """owner/name of the model that training started from, where it is on the hub."""
    from fclip.published import PUBLISHED

    if start in PUBLISHED:
        source = PUBLISHED[start].source
        return source if PUBLISHED[start].form in ("transformers", "open_clip hub") else None
    return start.removeprefix("hf-hub:") or None


def _interval(value: Mapping[str, Any]) -> dict[str, float] | None:
    low, high = value.get("low"), value.get("high")
    return None if low is None or high is None else {"low": low, "high": high}


def _told(key: str, value: Any) -> bool:
    return isinstance(value, int) and (key in ("pictures", "products", "captions") or "queries" in key)
