"""Two kinds of pictures and one model that knows its answers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from eval.cross_domain import read_mapping, run_cross_domain
from eval.settings import Settings
from fclip.catalogue.schema import features
from fclip.embedding import ImageEmbeddings
from fclip.errors import UserError

MAPPING = """
category:
  from: label
  values: {Tee: t-shirt, Vest: t-shirt, Gown: dress, Denim: trousers}
"""


def picture(n: int) -> dict:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (n, n, n)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


def rows(group, values, split, first=0):
    return [{"id": f"{group}{first + n}", "item": f"{n // 2}", "image": picture(first + n), "split": split,
             "attributes": {group: value}} for n, value in enumerate(values)]  # fmt: skip


OURS = ["t-shirt", "dress", "trousers", "skirt", "dress", "t-shirt", "trousers", "dress"]
THEIRS = ["Tee", "Vest", "Gown", "Denim", "Hat", "Gown", None, "Tee"]


@pytest.fixture
def world(monkeypatch, tmp_path, model):
    """A model that takes our pictures for what they are, and every dress of the others for trousers."""
    train = rows("category", ["dress", "dress", "t-shirt", "trousers", "skirt"], "train", 100)
    ours = Dataset.from_list(train + rows("category", OURS, "val"), features=features(["category"]))
    theirs = Dataset.from_list(rows("label", THEIRS, "test"), features=features(["label"]))
    names = ["t-shirt", "dress", "trousers", "skirt"]
    taken = {"Tee": "t-shirt", "Vest": "t-shirt", "Gown": "trousers", "Denim": "trousers"}

    def texts(model, sentences):
        return np.array([[float(name in text) for name in names] for text in sentences], np.float32)

    def images(model, pictures, **_):
        shown = [next(iter(cell.values())) for cell in pictures["attributes"]]
        vectors = texts(model, [taken.get(value, value) for value in shown])
        return ImageEmbeddings(vectors, np.arange(len(shown)), [])

    monkeypatch.setattr("eval.cross_domain.embed_images", images)
    for module in ("cross_domain", "classes"):
        monkeypatch.setattr(f"eval.{module}.embed_texts", texts)
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: model)
    monkeypatch.setattr("fclip.catalogue.open_catalogue", lambda path, **_: theirs if path == "theirs" else ours)
    (tmp_path / "map.yaml").write_text(MAPPING)
    return tmp_path / "map.yaml"


def test_both_kinds_are_measured_on_the_mapped_classes(world, tmp_path):
    result = run_cross_domain(
        "tiny", "ours", "val", "theirs", world, settings=Settings(tmp_path / "out.json", bootstrap=200)
    )
    own, other = result["metrics"]["own"], result["metrics"]["other"]
    assert {name: value["value"] for name, value in own.items()} == dict.fromkeys(own, 1)
    assert result["counts"]["own"] == {"pictures": 7, "products": 4, "left_out": 1, "unreadable": 0}  # the skirt
    assert result["counts"]["other"]["pictures"] == 6
    assert result["unmapped"] == {"category": {"Hat": 1, "(none or several)": 1}}
    assert result["classes"] == {"category": ["dress", "t-shirt", "trousers"]}
    assert other["category@1"]["value"] == other["text_sfa"]["value"] == round(4 / 6, 6)
    assert other["category_macro@1"]["value"] == round(2 / 3, 6)  # dress 0, the others 1
    assert result["gap"]["category@1"]["value"] == round(2 / 6, 6)
    assert result["gap"]["category@1"]["low"] <= 2 / 6 <= result["gap"]["category@1"]["high"]
    dress = result["per_class"]["category"][0]
    assert dress == {"own": 1, "own_pictures": 3, "other": 0, "other_pictures": 2}
    chance = result["baselines"]["other"]
    assert chance["chance"]["category@1"]["value"] == round(1 / 3, 6)
    assert chance["most_frequent"]["category@1"]["value"] == round(2 / 6, 6)  # always a dress


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "category: {from: label, values: {Tee: shirt}}",
            "no category 'shirt' in the catalogue; did you mean 't-shirt'",
        ),
        ("category: {from: labels, values: {Tee: dress}}", "no attribute group 'labels'.*did you mean 'label'"),
        ("categories: {values: {Tee: dress}}", "no attribute group 'categories'.*did you mean 'category'"),
        ("category: {from: label, values: {Hat: dress, 1: skirt}}", "expected 'group: .*quote yes, no and numbers"),
        ("category: {values: {}}", "expected 'group: "),
        ("- a list", "expected 'group: "),
        ("category: {from: [", "no YAML"),
    ],
)
def test_a_mapping_that_does_not_fit_is_told_in_one_line(world, text, message):
    world.write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as told:
        run_cross_domain("tiny", "ours", "val", "theirs", world, settings=Settings(bootstrap=0))
    assert "\n" not in str(told.value)


def test_a_value_that_training_never_saw_is_named(world, monkeypatch):
    from eval import cross_domain

    rules = read_mapping(world)
    unseen = Dataset.from_list(rows("category", ["t-shirt", "trousers"], "train") + rows("category", OURS, "val"),
                               features=features(["category"]))  # fmt: skip
    theirs = Dataset.from_list(rows("label", THEIRS, "test"), features=features(["label"]))
    with pytest.raises(UserError, match="category 'dress' is never seen in training"):
        cross_domain._check(rules, unseen, theirs, "map.yaml")


def test_an_absent_mapping_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the mapping .*none.yaml"):
        read_mapping(tmp_path / "none.yaml")
