"""The training program, in process and once as it is really launched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.train import main
from fclip.checkpoint import load_checkpoint
from fclip.config import load_preset
from fclip.files import read_json

ROOT = Path(__file__).parents[1]
TINY = """
epochs: 1
batch_size: 8
track: none
model:
  name: timm:test_resnet
  image_size: [32, 32]
  tokenizer: trained
  embed_dim: 16
  text_width: 16
  text_layers: 1
  text_heads: 2
data:
  catalogue: ["drawn:20"]
  workers: 0
"""


@pytest.fixture
def tiny(tmp_path) -> str:
    (tmp_path / "tiny.yaml").write_text(TINY + f"out: {tmp_path / 'run'}\n")
    return str(tmp_path / "tiny.yaml")


def run(*argv: str) -> None:
    """Runs the program; anything but a clean end is an exit code, as a SystemExit."""
    try:
        main(argv)
    except SystemExit as end:
        if end.code:
            raise


def refused(capsys, *argv: str) -> str:
    """The one line of a run that ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_trains_measures_and_writes_a_run(tiny, tmp_path, capsys):
    run(tiny, "epochs=2", "--optim.lr", "3e-3", "track=tensorboard")
    out = tmp_path / "run"
    metrics = read_json(out / "best" / "metrics.json", "")
    assert metrics["score"] == pytest.approx((metrics["text_sfa"] + metrics["attribute_sfa"]) / 2)
    assert load_checkpoint(out / "best").name == load_checkpoint(out / "last").name == "timm:test_resnet"
    history = read_json(out / "history.json", "")
    assert [entry["epoch"] for entry in history if "score" in entry] == [1, 2]
    assert (out / "logs").is_dir()
    kept = load_preset(out / "last" / "preset.yaml")
    assert (kept.epochs, kept.optim.lr) == (2, 3e-3)
    told = capsys.readouterr().err
    assert "distinct captions, e.g. " in told
    assert f"best checkpoint: {out / 'best'} (score {max(e['score'] for e in history if 'score' in e):.3f})" in told


def test_an_interrupted_run_is_resumed(tiny, tmp_path):
    run(tiny)
    before = (tmp_path / "run" / "last" / "model.safetensors").read_bytes()
    run(tiny, "--resume", str(tmp_path / "run" / "last"))
    assert (tmp_path / "run" / "last" / "model.safetensors").read_bytes() == before  # nothing was left to do


def test_an_interrupted_run_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    run(tiny)
    monkeypatch.setattr("fclip.training.train", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tiny, "--overwrite")
    assert f"interrupted; continue with --resume {tmp_path / 'run' / 'last'}" in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_refused_before_the_work(tiny, tmp_path, capsys):
    (tmp_path / "run").touch()
    assert refused(capsys, tiny).startswith(
        f"error: cannot make folder {tmp_path / 'run'}: File exists; choose another"
    )


def test_an_out_in_use_is_refused_unless_asked_to_overwrite(tiny, tmp_path, capsys):
    (tmp_path / "run" / "last").mkdir(parents=True)
    line = refused(capsys, tiny)
    assert line.startswith(f"error: {tmp_path / 'run'} already holds a run; continue with --resume ")
    run(tiny, "--overwrite")
    assert (tmp_path / "run" / "last" / "model.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["optim.learning_rate=3"], "unknown key 'optim.learning_rate'; "),
        (["--epoch", "3"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["epochs=many"], "epochs: "),
        (["surplus"], "expected key=value or --key value, got 'surplus'"),
        (["data.catalogue=[/no/such.csv]"], "/no/such.csv"),
        (["data.catalogue=[]"], "no catalogue to train on; set data.catalogue=PATH"),
        (["data.val_split=vall"], "split 'vall' is empty; did you mean 'val'?"),
        (["captions.style=product"], "no caption style 'product'; did you mean 'products'?"),
        (
            [
                "model.name=timm:swin_pico_patch4_window7_112",
                "model.image_size=[112,112]",
                "data.first_size=0.5",
                "epochs=2",
            ],
            "data.first_size=0.5 begins with pictures of 56x56, but timm:swin_pico_patch4_window7_112 takes only 112",
        ),
        (["model.name=timm:test_resnett"], "timm has no model 'test_resnett'; did you mean test_resnet"),
        (
            ["--resume", "/no/such/last"],
            "expected a training checkpoint (OUT/last), there is no folder /no/such/last",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(tiny, capsys, overrides, line):
    with pytest.raises(SystemExit) as end:
        run(tiny, *overrides)
    assert end.value.code == 2
    *told, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert line in last
    assert all("distinct captions" in before for before in told)  # at most the summary of the data


def test_a_missing_preset_is_one_line(tmp_path, capsys):
    assert "expected a preset, cannot read" in refused(capsys, str(tmp_path / "none.yaml"))


def test_unreadable_pictures_are_listed_in_the_run(tiny, tmp_path, capsys):
    from fclip.catalogue.drawn import draw_catalogue
    from fclip.catalogue.storage import save_catalogue

    catalogue = draw_catalogue(items=12, views=2, size_px=32)
    columns = catalogue.to_dict()
    columns["image"][0] = {"bytes": b"no picture", "path": None}
    save_catalogue(type(catalogue).from_dict(columns, features=catalogue.features), tmp_path / "catalogue")
    run(tiny, f"data.catalogue=[{tmp_path / 'catalogue'}]")
    assert "1 unreadable pictures were replaced by others" in capsys.readouterr().err
    assert (tmp_path / "run" / "skipped.txt").read_text().startswith("drawn-000000-front: ")


def test_a_dry_run_tells_what_it_would_take_and_writes_nothing(tiny, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    run(tiny, "--dry-run", "track=tensorboard", "epochs=5", "eval_every=2")
    told = capsys.readouterr().err
    words = [line.split("  ")[0] for line in told.splitlines()[1:]]
    assert words[:7] == ["pictures", "steps", "speed", "training", "evaluation", "memory", "checkpoint"]
    assert words[7:] == ["image tower", "projection", "text tower", "scale"]
    assert "steps         20 in 5 epochs" in told
    assert "minutes: 3 times " in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_learning_rate_is_found_and_drawn_beside_the_run(tiny, tmp_path, capsys):
    run(tiny, "--find-lr")
    found = read_json(tmp_path / "run" / "lr.json", "")
    assert f"optim.lr={found['suggested']:.1e} (the loss fell fastest at " in capsys.readouterr().err
    assert {f.name for f in (tmp_path / "run").iterdir()} == {"lr.json", "lr.png"}


def test_every_preset_that_comes_with_it_is_valid():
    presets = sorted((ROOT / "experiments" / "presets").glob("*.yaml"))
    assert len(presets) >= 2
    assert all(load_preset(file).out.startswith("runs/") for file in presets)


def test_help_needs_no_torch():
    code = "import sys, experiments.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


LAUNCHERS = {
    "accelerate, one process": (
        1,
        ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--mixed_precision=no"],
    ),
    # `accelerate launch --cpu` starts one process whatever its --num_processes; torchrun starts as many as asked.
    "torchrun, two processes": (2, ["torch.distributed.run", "--nproc_per_node=2", "--standalone"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_it_runs_as_it_is_really_launched(tiny, tmp_path, launcher):
    processes, (module, *options) = LAUNCHERS[launcher]
    result = subprocess.run(
        [sys.executable, "-m", module, *options, "-m", "experiments.train", tiny, "batch_size=4"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("best checkpoint: ") == 1  # one process speaks
    history = read_json(tmp_path / "run" / "history.json", "")
    assert history[-1]["step"] == 34 // (4 * processes)  # of 34 training pictures
    assert load_checkpoint(tmp_path / "run" / "best").name == "timm:test_resnet"
