"""The README tells the truth: its commands run as written, in their order, and its tree names what is there."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# Training as written takes minutes; these make it seconds and change nothing else.
TINY = "epochs=1 batch_size=8 data.workers=0 bf16_on_cpu=false model.image_size=[32,32] model.name=timm:test_resnet"


def block(heading: str, language: str) -> str:
    """The first fenced block of a language under a heading."""
    section = README.split(f"## {heading}\n", 1)[1]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL).group(1)


@pytest.fixture(scope="module")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: garments.csv, its pictures, a photograph, and the checkout's programs."""
    from fclip.catalogue.drawn import draw_catalogue

    folder = tmp_path_factory.mktemp("user")
    for name in ("eval", "experiments", "fclip", "stn"):
        (folder / name).symlink_to(ROOT / name)
    with (folder / "garments.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["sku", "file", "split", "gender", "category", "colour", "pattern"])
        for number, row in enumerate(draw_catalogue(items=40, views=1, size_px=48)):
            (folder / f"{row['id']}.jpg").write_bytes(row["image"]["bytes"])
            about = [row["attributes"][g] for g in ("category", "colour", "pattern")]
            split = "val" if number % 4 == 0 else "train"
            table.writerow([row["id"], f"{row['id']}.jpg", split, ["Women", "Men"][number % 2], *about])
    shutil.copy(next(folder.glob("drawn-*.jpg")), folder / "photo.jpg")
    return folder


@pytest.mark.slow
def test_the_main_job_runs_as_written(garments: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for line in block("The main job in five commands", "sh").splitlines():
        command = f"{line} {TINY}" if line.startswith("accelerate") else line
        done = subprocess.run(["bash", "-c", command], cwd=garments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    assert (garments / "search.png").is_file()
    snippet = block("The main job in five commands", "python") + "\nassert len(answers) == 4"
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=garments, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_tree_names_what_is_there() -> None:
    tree = block("Layout", "")
    for name in re.findall(r"\b([a-z_]+\.py)\b", tree):
        here = [*ROOT.glob(f"fclip/**/{name}"), *ROOT.glob(f"stn/{name}")]
        assert here, f"the README's tree names {name}, which is in neither fclip nor stn"
    for path in [*ROOT.glob("fclip/*.py"), *ROOT.glob("stn/*.py")]:
        assert path.name in tree or path.name.startswith("__"), f"{path.name} is missing in the README's tree"


def test_it_stays_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_results_are_filled_in() -> None:
    assert not re.search(r"\bRESULTS\b|\bTODO\b", README)
