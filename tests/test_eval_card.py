"""The model card loads as the hub's own library reads it, and says what the results and the folder say."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from test_eval_compare import made

from eval.__main__ import main
from eval.card import write_card
from fclip.errors import UserError

PRESET = {
    "epochs": 3,
    "batch_size": 64,
    "seed": 7,
    "model": {"name": "fashionclip", "stn": {"transform": "affine", "points": 4}, "image_size": [224, 224]},
    "data": {"catalogue": ["/somewhere/secret/garments"]},
    "optim": {"lr": 0.001},
    "loss": {"positives": "overlap"},
}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint's words without its weights."""
    (tmp_path / "best").mkdir()
    card = {
        "name": "plain: a",
        "fingerprint": "f",
        "captions": {"template": "[{colour} ]garment[, {sleeve}]"},
        "preprocess": {"size": [96, 80]},
    }
    (tmp_path / "best" / "model.json").write_text(json.dumps(card))
    (tmp_path / "best" / "preset.yaml").write_text(yaml.safe_dump(PRESET))
    return tmp_path / "best"


@pytest.fixture
def result(tmp_path):
    made_result = made("plain: a", 0.6) | {
        "split": "val",
        "catalogue": ["/x/garments"],
        "command": "python -m eval x --catalogue '/secret/my garments'",
    }
    made_result["counts"]["ties"] = 4
    made_result["products_in_train"] = 2
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(made_result))
    return path


def test_the_hubs_library_reads_what_was_measured(folder, result):
    path = write_card(folder, [result])
    assert path == folder / "README.md"
    card = ModelCard.load(path)
    said = json.loads(result.read_text())["metrics"]
    assert (card.data.license, card.data.library_name, card.data.base_model) == (
        "mit",
        "fclip",
        "patrickjohncyh/fashion-clip",
    )
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.model_name == "plain: a"
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found["text_sfa"] == said["text_sfa"]["value"]
    assert found["attribute_sfa_by_group: sleeve"] == said["attribute_sfa_by_group"]["sleeve"]["value"]
    assert {one.dataset_split for one in card.data.eval_results} == {"val"}
    [index] = metadata_load(path)["model-index"]
    assert index["results"][0]["dataset"]["name"] == "garments"
    assert metadata_load(path)["tags"][0] == "clip"


def test_the_text_tells_scores_baselines_training_and_limits(folder, result):
    text = write_card(folder, [result]).read_text()
    for expected in (
        "| Text SFA | 0.600 [0.",
        "| chance |",
        "colour, sleeve",
        "load_checkpoint",
        "80 × 96 pixels",
        "- epochs: 3",
        "- seed: 7",
        "- optim.lr: 0.001",
        "- loss.positives: overlap",
        "started from fashionclip, whose weights are licensed under MIT",
        "4 pictures had tied nearest captions",
        "2 products measured were in training too",
        "is recognised worst",
        "- model.stn.transform: affine",
        "python -m eval x --catalogue 'my garments'",
    ):
        assert expected in text
    assert "secret" not in text
    assert "points" not in text
    assert "\n\n\n\n" not in text


def test_a_licence_can_be_given_and_is_never_guessed(folder, result):
    assert ModelCard.load(write_card(folder, [result], licence="apache-2.0")).data.license == "apache-2.0"
    (folder / "preset.yaml").unlink()
    card = ModelCard.load(write_card(folder, [result]))
    assert card.data.license == "unknown"
    assert "does not tell how this model was trained" in card.text


def test_an_export_is_used_as_its_library_does(folder, result, tmp_path):
    (tmp_path / "out").mkdir()
    about = {"to": "transformers", "name": "plain: a", "fingerprint": "f", "preprocess": {"size": [32, 32]}}
    (tmp_path / "out" / "fclip.json").write_text(json.dumps(about))
    card = ModelCard.load(write_card(tmp_path / "out", [result]))
    assert card.data.library_name == "transformers"
    assert "CLIPModel.from_pretrained" in card.text


def test_a_result_of_another_model_and_a_folder_of_nothing_are_refused(folder, result, tmp_path, capsys):
    other = json.loads(result.read_text())
    other["model"]["fingerprint"] = "g"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"a result is of the model plain: a \(g\)"):
        write_card(folder, [tmp_path / "other.json"])
    with pytest.raises(UserError, match=r"expected model.json or fclip.json"):
        write_card(tmp_path, [result])
    with pytest.raises(SystemExit) as end:
        main(["card", str(result), "--checkpoint", str(folder), "--out", str(tmp_path / "CARD.md")])
    assert not end.value.code
    assert capsys.readouterr().out == f"written: {tmp_path / 'CARD.md'}\n"
