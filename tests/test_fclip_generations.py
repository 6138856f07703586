"""A folder of generated pictures: written one by one, read whole or refused, continued after any interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from fclip.errors import UserError
from fclip.generations import (
    LIST,
    Generation,
    continue_generations,
    keep,
    picture_name,
    read_generations,
    seed_of,
)

PICTURE = Image.new("RGB", (8, 8), "red")


def one(participant="0001", index=0, **other) -> Generation:
    name = picture_name(participant, index)
    return Generation(name, participant, index, "a red dress – größer", "blurry", 7, "sd", 1.5, {"steps": 2}, **other)


@pytest.fixture
def folder(tmp_path):
    for generation in (one("0002"), one(index=1), one(index=0, memory_mb=12.5, flagged=True)):
        keep(tmp_path, generation, PICTURE)
    return tmp_path


def test_what_is_kept_is_read_again_by_participant_and_index(folder):
    assert read_generations(folder) == [one(memory_mb=12.5, flagged=True), one(index=1), one("0002")]
    assert Image.open(folder / "0001-1.png").getpixel((3, 3)) == (255, 0, 0)
    assert set(json.loads((folder / LIST).read_text().splitlines()[0])) == {
        "file", "participant", "index", "prompt", "negative_prompt", "seed", "model", "seconds", "settings",
        "memory_mb", "flagged",
    }  # fmt: skip


def test_a_line_of_another_program_needs_only_the_nine_agreed_keys(folder):
    lines = [json.loads(line) for line in (folder / LIST).read_text().splitlines()]
    for line in lines:
        del line["memory_mb"], line["flagged"]
        line["theirs"] = 1
    (folder / LIST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_generations(folder)[0] == one()


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_off_is_made_again(folder, cut):
    whole = (folder / LIST).read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    (folder / LIST).write_bytes(whole[: -len(last)] + last[:cut])
    assert continue_generations(folder) == [one("0002"), one(index=1)]
    keep(folder, one(), PICTURE)
    assert len(read_generations(folder)) == 3


def test_a_line_without_its_picture_is_made_again(folder):
    (folder / "0001-1.png").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its 3 pictures, e\.g\. 0001-1\.png"):
        read_generations(folder)
    assert [g.file for g in continue_generations(folder)] == ["0002-0.png", "0001-0.png"]
    assert len(read_generations(folder)) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "generations.jsonl:4 is no picture's line"),
        ("[]", "generations.jsonl:4 is no picture's line"),
        ('{"file": "a.png"}', "missing 7 required positional arguments"),
        (json.dumps({**vars(one()), "index": "x"}), "index is of another kind than expected, got 'x'"),
        (json.dumps({**vars(one()), "file": "../../x.png"}), "expected the name of a picture beside the list"),
        (json.dumps(vars(one())), "names a file twice"),
        (json.dumps(vars(replace(one(), file="0002-0.png"))), "names a file twice"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(folder, line, told):
    with (folder / LIST).open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(UserError, match=told.replace("(", r"\(").replace("..", r"\.\.")):
        read_generations(folder)


def test_no_folder_and_no_picture_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"found no generations\.jsonl; make some with"):
        read_generations(tmp_path / "none")
    (tmp_path / LIST).touch()
    with pytest.raises(UserError, match="no picture was generated yet"):
        read_generations(tmp_path)


def test_names_are_safe_for_a_file_system_and_differ():
    names = ["0001", "Ann O'Neil", "Ann O/Neil", "../../etc", "", ".hidden", "größe", "x" * 300]
    made = [picture_name(name, 0) for name in names]
    assert made[0] == "0001-0.png"
    assert len({name.lower() for name in made}) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 80 and name.isascii() for name in made)


def test_a_seed_depends_on_each_of_its_parts_and_nothing_else():
    seeds = [seed_of(s, p, i, a) for s in (0, 1) for p in ("1", "11") for i in (0, 1) for a in (0, 1)]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of(0, "0001", 0) == 433137824  # of folders that were made before


def test_a_folder_of_something_else_is_not_drawn_into(tmp_path):
    (tmp_path / "0001-0.png").touch()  # of a run that was killed before its first line
    assert continue_generations(tmp_path) == []
    (tmp_path / "data-00000.arrow").touch()
    with pytest.raises(UserError, match=r"holds data-00000\.arrow and no generations\.jsonl"):
        continue_generations(tmp_path)
