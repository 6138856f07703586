"""STUDY.yaml: defaults are the paper's, mistakes are one line, and every field is explained."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fclip.errors import UserError
from user_study import config
from user_study.config import load_study

STUDY = """
name: dress-up
systems:
  - {name: baseline, kind: index, path: indexes/plain}
  - {name: diffusion, kind: diffusion, path: hub/stable-diffusion, generated: true}
calibration:
  - {text: a red dress, images: [red.jpg]}
ask_generated: true
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "STUDY.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_is_not_said_is_as_in_the_paper_and_paths_are_beside_the_file(tmp_path):
    study = load_study(written(tmp_path, STUDY))
    assert (study.pictures, study.least_images, study.most_images, study.own_queries) == (4, 2, 4, 1)
    assert [system.name for system in study.systems] == ["baseline", "diffusion"]
    assert study.systems[0].path == str(tmp_path / "indexes/plain")
    assert study.systems[1].path == "hub/stable-diffusion"
    assert study.calibration[0].images == (str(tmp_path / "red.jpg"),)
    (tmp_path / "hub" / "stable-diffusion").mkdir(parents=True)
    assert load_study(tmp_path / "STUDY.yaml").systems[1].path == str(tmp_path / "hub/stable-diffusion")


def test_an_index_may_lie_in_an_object_store(tmp_path):
    study = load_study(written(tmp_path, STUDY.replace("indexes/plain", "s3://shop/index")))
    assert study.systems[0].path == "s3://shop/index"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STUDY.replace("name: dress-up", "name: dress up"), "name: "),
        (STUDY.replace("kind: index", "kind: indx"), "systems.0.kind: "),
        (STUDY.replace("generated: true", "generate: true"), "did you mean 'generated'?"),
        (STUDY + "pictrues: 3\n", "did you mean 'pictures'?"),
        (STUDY + "pictures: 0\n", "pictures: input should be greater than 0, got 0"),
        (STUDY + "least_images: 5\n", "least_images 5 is more than most_images 4"),
        (STUDY.replace("generated: true}", "generated: false}"), "ask_generated needs a system"),
        (STUDY.replace("name: diffusion", "name: baseline"), "systems of different names"),
        (STUDY.replace("name: dress-up\n", ""), "name is missing"),
        ("- a\n", "should hold keys and values"),
        ("a: [\n", "is no YAML"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        load_study(written(tmp_path, text))
    assert said in str(error.value)
    assert "STUDY.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load_study(tmp_path / "STUDY.yaml")


def test_every_field_has_a_comment():
    source = Path(config.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    fields = [(node.name, field) for node in classes for field in node.body if isinstance(field, ast.AnnAssign)]
    bare = [
        f"{name}.{ast.unparse(field.target)}"
        for name, field in fields
        if "  # " not in lines[(field.end_lineno or 0) - 1] and not lines[field.lineno - 2].strip().startswith("# ")
    ]
    assert (bare, len(fields) > 20) == ([], True)
