"""Pictures for participants, from a tiny Stable Diffusion of the real classes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tiny_diffusion import SIDE, make_ip_adapter, rewrite_index

from experiments.diffusion import generate as module
from experiments.diffusion.__main__ import main
from experiments.diffusion.generate import Machine, Settings, generate
from experiments.diffusion.participants import Participant, read_participants
from experiments.diffusion.pipelines import open_pipeline
from experiments.diffusion.prompts import in_template, truncated
from fclip.errors import UserError
from fclip.generations import read_generations, seed_of

ROOT = Path(__file__).parents[1]
PEOPLE = [Participant("ann", "red dress"), Participant("bob", "blue shirt"), Participant("eve", "green hat")]


@pytest.fixture
def settings(tiny_sd) -> Settings:
    return Settings(model=str(tiny_sd), n=2, steps=2)


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file)
    return file


def make(people, out, settings, batch_size=4, **machine):
    return generate(people, out, settings, Machine(batch_size, "cpu", **machine), progress=False)


def pixels(folder) -> dict[str, np.ndarray]:
    return {one.file: np.asarray(Image.open(folder / one.file), int) for one in read_generations(folder)}


def test_pictures_do_not_depend_on_batches_nor_on_who_else_is_asked_for(settings, tmp_path):
    made = make(PEOPLE, tmp_path / "all", settings, batch_size=4)
    make([PEOPLE[1]], tmp_path / "one", settings, batch_size=1)
    together, alone = pixels(tmp_path / "all"), pixels(tmp_path / "one")
    assert len(together) == 6
    assert all(picture.shape == (SIDE, SIDE, 3) for picture in together.values())
    assert all(np.abs(together[name] - alone[name]).max() <= 1 for name in ("bob-0.png", "bob-1.png"))
    assert np.abs(together["bob-0.png"] - together["bob-1.png"]).max() > 10
    assert [one.seed for one in made] == [seed_of(0, one.participant, one.index) for one in made]
    assert made == read_generations(tmp_path / "all")
    assert made[2].prompt == in_template("blue shirt")
    assert all(one.seconds > 0 and one.memory_mb > 0 and one.settings["mode"] == "text" for one in made)


def test_a_picture_is_what_diffusers_makes_of_its_line(settings, tmp_path, tiny_sd):
    made = make(PEOPLE[:1], tmp_path, settings)[1]
    pipe = open_pipeline(str(tiny_sd))
    noise = torch.Generator().manual_seed(made.seed)
    told = {"negative_prompt": made.negative_prompt, "num_inference_steps": 2, "guidance_scale": 7.5}
    expected = np.asarray(pipe(made.prompt, generator=noise, **told).images[0], int)
    assert np.abs(pixels(tmp_path)[made.file] - expected).max() <= 1


def test_an_interrupted_generation_goes_on_and_ends_as_if_it_had_not_been(settings, tmp_path, monkeypatch):
    make(PEOPLE, tmp_path / "whole", settings)
    paint, calls = module.Painter.paint, []

    def killed(self, tasks):
        calls.append(len(tasks))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return paint(self, tasks)

    monkeypatch.setattr(module.Painter, "paint", killed)
    with pytest.raises(KeyboardInterrupt):
        make(PEOPLE, tmp_path / "killed", settings)
    assert len(read_generations(tmp_path / "killed")) == 4
    calls[:] = [0, 0]
    make(PEOPLE, tmp_path / "killed", settings)
    assert calls[2:] == [2]  # only what was missing
    whole, continued = pixels(tmp_path / "whole"), pixels(tmp_path / "killed")
    assert all(np.abs(whole[name] - continued[name]).max() <= 1 for name in whole)
    monkeypatch.setattr(module, "Painter", None)  # nothing is left to do, so no model is loaded
    assert len(make(PEOPLE, tmp_path / "killed", settings)) == 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 3}, "another steps: 2, now 3"),
        ({"seed": 1}, "another seed: "),
        ({"negative": "x"}, "another negative"),
        ({"template": "{text}!"}, "another prompt: "),
        ({"n": 1}, "holds ann-1.png, which is not asked for"),
    ],
)
def test_a_folder_of_other_settings_is_not_mixed(settings, tmp_path, change, told):
    make(PEOPLE[:1], tmp_path, settings)
    with pytest.raises(UserError, match=told):
        make(PEOPLE[:1], tmp_path, Settings(**{**vars(settings), **change}))


def test_photographs_go_image_to_image_and_each_gets_its_share(settings, tmp_path, photo, tiny_sd):
    from diffusers import StableDiffusionImg2ImgPipeline

    other = tmp_path / "other.png"
    Image.new("RGB", (20, 50), "blue").save(other)
    people = [Participant("ann", "red dress"), Participant("bob", "red dress", (photo, other))]
    settings = Settings(**{**vars(settings), "strength": 0.5, "steps": 4})
    made = make(people, tmp_path / "out", settings)
    assert [one.settings["mode"] for one in made] == ["text", "text", "image-to-image", "image-to-image"]
    assert made[2].settings["photos"] == ["photo.jpg", "other.png"]
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd)
    for one, file in zip(made[2:], (photo, other), strict=True):
        picture = ImageOps.pad(Image.open(file), (SIDE, SIDE), color="white")
        noise = torch.Generator().manual_seed(one.seed)
        told = {"negative_prompt": one.negative_prompt, "num_inference_steps": 4, "strength": 0.5}
        expected = np.asarray(pipe(one.prompt, image=picture, generator=noise, **told).images[0], int)
        assert np.abs(pixels(tmp_path / "out")[one.file] - expected).max() <= 1


def test_an_ip_adapter_takes_all_photographs_beside_the_words(settings, tmp_path, photo, tiny_sd):
    other = tmp_path / "other.png"
    Image.new("RGB", (20, 50), "blue").save(other)
    (tmp_path / "adapter").mkdir()
    file = make_ip_adapter(open_pipeline(str(tiny_sd)), tmp_path / "adapter")
    people = [Participant("ann", "hat"), Participant("bob", "hat", (photo,)), Participant("eve", "hat", (photo, other))]
    adapted = Settings(**{**vars(settings), "ip_adapter": str(file), "ip_scale": 1.0})
    made = make(people, tmp_path / "adapted", adapted)
    assert [one.settings["mode"] for one in made] == ["text"] * 2 + ["ip-adapter"] * 4
    make(people[:1], tmp_path / "plain", settings)
    drawn, plain = pixels(tmp_path / "adapted"), pixels(tmp_path / "plain")
    assert np.abs(drawn["ann-0.png"] - plain["ann-0.png"]).max() <= 1  # without photographs it says nothing
    make(people[1:], tmp_path / "weak", Settings(**{**vars(adapted), "ip_scale": 0.0}))
    weak = pixels(tmp_path / "weak")
    assert all(np.abs(drawn[name] - weak[name]).max() > 0 for name in ("bob-0.png", "eve-0.png"))
    shutil.rmtree(tmp_path / "adapter" / "image_encoder")
    with pytest.raises(UserError, match="lacks the IP-Adapter's image_encoder/; copy it there"):
        make(people, tmp_path / "none", adapted)


def test_a_blackened_picture_is_tried_again_and_at_last_said(settings, tmp_path, capsys, monkeypatch):
    paint = module.Painter.paint

    def strict(self, tasks):
        pictures, _, *rest = paint(self, tasks)
        return pictures, [task.participant.name == "bob" or task.attempt == 0 for task in tasks], *rest

    monkeypatch.setattr(module.Painter, "paint", strict)
    made = make(PEOPLE[:2], tmp_path, settings)
    assert [(one.settings["attempt"], one.flagged) for one in made] == [(1, False)] * 2 + [(2, True)] * 2
    assert made[0].seed == seed_of(0, "ann", 0, 1)
    assert "the safety checker blackened 2 of 4 pictures, e.g. bob-0.png" in capsys.readouterr().err
    assert make(PEOPLE[:2], tmp_path, settings) == made  # and is not made again


def test_a_long_prompt_is_told_and_cut_as_diffusers_does(settings, tmp_path, capsys, tiny_sd):
    words = "red " * 90
    make([Participant("ann", words)], tmp_path, Settings(**{**vars(settings), "n": 1}))
    assert "1 prompts are longer than the 77 tokens that the model reads" in capsys.readouterr().err
    pipe = open_pipeline(str(tiny_sd))
    [lost] = truncated(pipe, [words]).values()
    assert lost == " ".join(["red"] * 15)  # 77 less start and end leave 75 of 90
    assert truncated(pipe, ["red " * 75]) == {}


def run(capsys, *argv):
    """The last line of a program that refuses."""
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_program_reads_a_table_and_fills_a_folder(tiny_sd, tmp_path, photo, capsys):
    (tmp_path / "people.csv").write_text("participant,text,images\n7,red dress,\n8,blue shirt,photo.jpg\n")
    out = tmp_path / "out"
    arguments = ("generate", str(tmp_path / "people.csv"), "--model", str(tiny_sd), "--out", str(out), "-n", "1")
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--steps", "2", "--device", "cpu", "--height", "24", "--width", "40"])
    assert not end.value.code
    assert "2 pictures for 2 participants" in capsys.readouterr().err
    assert {picture.shape for picture in pixels(out).values()} == {(24, 40, 3)}
    assert "another height: 24, now 16" in run(capsys, *arguments, "--steps", "2", "--height", "16", "--width", "40")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("participant,words\n1,x\n", "expected the columns participant, text and maybe images, got participant, words"),
        ("participant,text\n1,\n", "participant 1 has no words; a picture needs a prompt"),
        ("participant,text\n1,a\n1,b\n", "participant 1 is named twice"),
        ("participant,text,images\n1,a,none.jpg\n", "has no photograph "),
        ("participant,text,images\n1,a,a|b|c|d|e\n", "has 5 photographs, at most 4"),
        ("participant,text\n", "names no participant"),
    ],
)
def test_wishes_that_cannot_be_drawn_are_refused(tmp_path, content, told):
    file = tmp_path / "people.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=told):
        read_participants(file)


def test_json_lines_are_read_as_a_table_is(tmp_path, photo):
    rows = [{"participant": 3, "text": " red dress ", "images": ["photo.jpg"]}, {"participant": "x", "text": "hat"}]
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = read_participants(tmp_path / "people.jsonl")
    assert found == [Participant("3", "red dress", (photo,)), Participant("x", "hat")]
    (tmp_path / "people.jsonl").write_text("[1]")
    with pytest.raises(UserError, match=r'expected \{"participant": …, "text": …\}, got \[1\]'):
        read_participants(tmp_path / "people.jsonl")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--text", " "], "participant 0001 has no words; a picture needs a prompt"),
        ([], "expected a file of preferences or --text WORDS, and not both"),
        (["--text", "x", "--template", "a dress"], "the template needs a place for the words: {text}"),
        (["--text", "x", "--model", "models/none/here"], "no model folder models/none/here; known names: "),
        (["--text", "x", "--model", "nobody/nothing"], "cannot load nobody/nothing from the hub or its cache"),
        (["--text", "x", "--height", "30"], "expected --height in pixels, a multiple of 8, got 30"),
        (["--text", "x", "--steps", "0"], "expected --steps of at least 1, got 0"),
        (["--text", "x", "--dtype", "int8"], "expected --dtype float32, float16, bfloat16, got 'int8'"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(tmp_path, capsys, arguments, told):
    assert told in run(capsys, "generate", "--out", str(tmp_path / "out"), *arguments)


@pytest.fixture
def copy(tiny_sd, tmp_path):
    return shutil.copytree(tiny_sd, tmp_path / "copy")


def test_a_model_that_is_not_whole_is_named_in_one_line(copy):
    def refused() -> str:
        with pytest.raises(UserError) as told:
            open_pipeline(str(copy))
        return str(told.value)

    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    assert refused() == f"{weights} is damaged or was cut off; copy or download it again"
    weights.rename(weights.with_suffix(".bin"))
    assert (
        "its unet (UNet2DConditionModel) has no weights: only pickled ones (diffusion_pytorch_model.bin)" in refused()
    )
    weights.write_bytes(data)
    (copy / "unet" / "config.json").rename(copy / "config.json")
    assert "its unet (UNet2DConditionModel) lacks" in refused()
    (copy / "config.json").rename(copy / "unet" / "config.json")
    shutil.move(copy / "vae", copy / "elsewhere")
    assert "lacks its component vae (AutoencoderKL): no folder" in refused()
    shutil.move(copy / "elsewhere", copy / "vae")
    rewrite_index(copy, unet=["my_code", "MyUNet"])
    assert "its unet wants code of its own (my_code.MyUNet), which is not run" in refused()
    rewrite_index(copy, _class_name=["my_pipeline", "MyPipeline"])
    assert "names no pipeline of diffusers; code of others is not run" in refused()
    (copy / "model_index.json").unlink()
    assert "expected a diffusers pipeline's model_index.json" in refused()


def test_help_answers_without_loading_torch():
    script = """
import sys
from experiments.diffusion.__main__ import main
for arguments in (["--help"], ["generate", "--help"], ["finetune", "--help"], ["dreambooth", "--help"]):
    try:
        main(arguments)
    except SystemExit:
        pass
print(sorted({"torch", "diffusers", "transformers", "accelerate", "PIL", "peft"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stderr
    assert all(word in done.stdout for word in ("--ip-adapter", "finetune", "--resume"))
