"""The report: what it counts and which faults it finds."""

import io
import json

from PIL import Image
from rich.console import Console

from fclip.catalogue import open_catalogue
from fclip.catalogue.assemble import assemble
from fclip.catalogue.report import describe, problems, render


def jpeg(colour, size=(8, 12)):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "JPEG") if colour is None else Image.new(
        "RGB", size, colour
    ).save(buffer, "JPEG")
    return buffer.getvalue()


def faulty(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(jpeg(None, (64, 64))[:-400])
    red = jpeg("red")
    return assemble(
        {
            "id": ["1", "2", "3", "4", "4"],
            "item": ["a", "a", "b", "c", "c"],
            "image": [
                {"bytes": red, "path": None},
                {"bytes": jpeg("blue", (20, 10)), "path": None},
                {"bytes": red, "path": None},
                {"bytes": None, "path": str(tmp_path / "cut.jpg")},
                {"bytes": None, "path": str(tmp_path / "gone.jpg")},
            ],
            "split": ["train", "val", "test", "train", "train"],
        },
        {"colour": ["red", "red", None, "[blue]", None], "tags": [["x", "y"], [], None, ["x"], None]},
    )


def test_counts_and_faults(tmp_path):
    report = describe(faulty(tmp_path), progress=False)
    assert json.loads(json.dumps(report)) == report
    assert (report["pictures"], report["items"]) == (5, 3)
    assert report["splits"]["train"] == {"pictures": 3, "items": 2}
    assert report["attributes"] == {
        "colour": {"values": 2, "frequent": {"red": 2, "[blue]": 1}, "missing": 2},
        "tags": {"values": 2, "frequent": {"x": 2, "y": 1}, "missing": 2},
    }
    assert report["duplicate_ids"] == {"4": 2}
    assert report["leaking_items"] == {"a": ["train", "val"]}
    images = report["images"]
    assert [bad["id"] for bad in images["unreadable"]] == ["4", "4"]
    assert "truncated" in images["unreadable"][0]["reason"]
    assert "gone.jpg" in images["unreadable"][1]["reason"]
    assert images["width"] == {"min": 8, "median": 8, "max": 20}
    assert images["height"] == {"min": 10, "median": 12, "max": 12}
    assert images["identical_across_splits"] == [["1", "3"]]
    assert [sentence.split(":")[0] for sentence in problems(report)] == [
        "2 pictures cannot be read",
        "1 products are in several splits",
        "1 identical pictures are in several splits",
        "1 ids occur more than once",
    ]


def test_without_pictures_nothing_is_read(tmp_path):
    report = describe(faulty(tmp_path), check_images=False)
    assert report["images"] is None
    assert len(problems(report)) == 2


def test_a_sound_catalogue_has_no_problems_and_both_are_printed(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    sound = describe(open_catalogue("drawn:3"), progress=False)
    assert problems(sound) == []
    render(sound, console)
    render(describe(faulty(tmp_path), progress=False), console)
    text = console.file.getvalue()
    assert "no faults found" in text
    assert "[blue] 1" in text  # brackets in the data are no markup
    assert "! 2 pictures cannot be read: 4 (" in text
