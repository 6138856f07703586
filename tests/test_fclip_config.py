"""Presets: every key is documented, every mistake is one line that says what to write instead."""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip import config
from fclip.config import Preset, dump_preset, load_preset, preset_from
from fclip.errors import UserError

PRESETS = sorted((Path(__file__).parent.parent / "experiments" / "presets").glob("*.yaml"))
SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Preset) if f.default is dataclasses.MISSING}


def written(folder: Path, text: str = "epochs: 3\noptim:\n  lr: 1e-3\n") -> Path:
    file = folder / "preset.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_field_has_a_comment():
    source = Path(config.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    bare = []
    for node in ast.walk(ast.parse(source)):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)] if isinstance(node, ast.ClassDef) else []
        for field in fields:
            last, before = lines[(field.end_lineno or 0) - 1], lines[field.lineno - 2].strip()
            section = "default_factory" in last  # explained by its own docstring
            if not section and "  # " not in last[field.end_col_offset :] and not before.startswith("# "):
                bare.append(f"{node.name}.{ast.unparse(field.target)}")
    assert bare == []
    assert all(section.__doc__ for section in [Preset, *SECTIONS.values()])


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_every_preset_loads(file):
    assert load_preset(file).out.startswith("runs/")


def test_presets_do_not_write_over_each_other():
    assert len({load_preset(file).out for file in PRESETS}) == len(PRESETS) > 0


SIZES = {"hundreds": 100, "thousands": 1_000, "hundred_thousand": 20_000, "millions": 500_000}
"""Preset by size of data → the fewest pictures it is for."""


def sized(name: str) -> Preset:
    return load_preset(PRESETS[0].parent / "size" / f"{name}.yaml")


def test_presets_by_size_are_for_what_they_say():
    """Three steps an epoch at least; the more data, the larger the batch, and the less is held back."""
    assert {f.stem for f in (PRESETS[0].parent / "size").glob("*.yaml")} == set(SIZES)
    presets = [sized(name) for name in SIZES]
    assert all(rows // p.batch_size >= 3 for rows, p in zip(SIZES.values(), presets, strict=True))
    assert len({p.out for p in presets} | {load_preset(f).out for f in PRESETS}) == len(presets) + len(PRESETS)
    for key in ("batch_size", "optim.wise_ft"):
        values = [operator.attrgetter(key)(p) for p in presets]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert {p.model.name for p in presets} == {"fashionclip"}


@pytest.mark.parametrize("name", ["thousands", "hundred_thousand", "millions"])
def test_their_rates_follow_the_rule_that_they_name(name):
    """FLYP's 1e-5 at 512, times the root of the ratio of the batch sizes."""
    preset = sized(name)
    assert preset.optim.lr == pytest.approx(1e-5 * math.sqrt(preset.batch_size / 512), rel=0.02)


def test_nothing_given_is_the_defaults(tmp_path):
    assert load_preset(written(tmp_path, "")) == preset_from({}) == Preset()


@pytest.mark.parametrize(
    "words",
    [
        ["epochs=5", "optim.lr=3e-4", "captions.drop=0", "model.image-size=[96, 128]"],
        ["--epochs", "5", "--optim.lr", "3e-4", "--captions.drop", "0", "--model.image_size", "[96, 128]"],
        ["--epochs=5", "--optim.lr=3e-4", "--captions.drop=0", "--model.image-size=[96,128]"],
    ],
)
def test_overrides_in_three_spellings(tmp_path, words):
    preset = load_preset(written(tmp_path), words)
    assert (preset.epochs, preset.optim.lr, preset.captions.drop) == (5, 3e-4, 0)
    assert preset.model.image_size == (96, 128)
    assert preset.optim.warmup == Preset().optim.warmup


@pytest.mark.parametrize(
    ("word", "get", "value"),
    [
        ("data.catalogue=[drawn:100, ~/shop.csv]", lambda p: p.data.catalogue, ("drawn:100", "~/shop.csv")),
        ("freeze=[visual.*]", lambda p: p.freeze, ("visual.*",)),
        ("data.format=null", lambda p: p.data.format, None),
        ("channels_last=true", lambda p: p.channels_last, True),
        ("captions.paraphrases=[]", lambda p: p.captions.paraphrases, ()),
        ("captions.template='[{a} ]{b}'", lambda p: p.captions.template, "[{a} ]{b}"),
        ("out=runs/a=b", lambda p: p.out, "runs/a=b"),
        ("model.mean=[0.5, 1, 0]", lambda p: p.model.mean, (0.5, 1.0, 0.0)),
        ("optim.weight_decay=1e-2", lambda p: p.optim.weight_decay, 0.01),
    ],
)
def test_override_values_are_yaml(tmp_path, word, get, value):
    assert get(load_preset(written(tmp_path), [word])) == value


def test_the_last_override_wins_and_its_value_may_look_like_a_flag(tmp_path):
    assert load_preset(written(tmp_path), ["seed=1", "--seed", "2", "--out", "--odd"]).seed == 2
    assert load_preset(written(tmp_path), ["--seed", "-1"]).seed == -1


def test_one_catalogue_needs_no_list(tmp_path):
    for overrides in (["data.catalogue=garments"], ["--data.catalogue", "garments"], ["data.catalogue=[garments]"]):
        assert load_preset(written(tmp_path), overrides).data.catalogue == ("garments",)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("epoch: 3", [], "unknown key 'epoch'; did you mean 'epochs'?"),
        ("optim: {learning: 1}", [], r"unknown key 'optim.learning'; .*known: beta1, "),
        ("", ["optim.warm-up=0"], "unknown key 'optim.warm_up'; did you mean 'warmup'?"),
        ("", ["captoins.drop=1"], "unknown key 'captoins'; did you mean 'captions'?"),
        ("seed: many", [], "seed: expected a whole number, got 'many'"),
        ("seed: 1.5", [], "seed: expected a whole number, got 1.5"),
        ("epochs: many", [], "epochs.*, got 'many'"),
        ("epochs: 0", [], "epochs: expected more than 0, got 0"),
        ("freeze: visual", [], "freeze: expected a list, .*, got 'visual'"),
        ("data: {catalogue: 3}", [], r"data\.catalogue: expected a list, .*, got 3"),
        ("model: {image_size: [96]}", [], r"model\.image_size"),
        ("model: {tokenizer: words}", [], r"model\.tokenizer: .*'own' or 'trained', got 'words'"),
        ("optim: fast", [], "optim: expected keys below it, got 'fast'"),
        ("epochs: 3", ["epochs.lr=1"], "cannot set epochs.lr: epochs is a value"),
        ("", ["epochs"], "expected key=value or --key value, got 'epochs'"),
        ("", ["--epochs"], "expected key=value or --key value, got '--epochs'"),
        ("", ["captions.template=[{a} ]{b}"], r"cannot read the value of captions.template .*quotes"),
        ("3: 4", [], "3: keys should be strings"),
        ("[1, 2]", [], "should hold keys and values, .*got a list"),
        ("a: [", [], "is no YAML"),
        ("a: \x07", [], "is no YAML"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load_preset(written(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "names_the_file"),
    [
        ("epochs: 0", [], True),
        ("epochs: 3", ["epochs=0"], False),
        ("optim: {lr: -1}", ["optim.warmup=0"], True),
        ("optim: {lr: 1}", ["optim.lr=-1"], False),
        ("", ["optim=fast"], False),
        ("epoch: 3", ["epochs=1"], True),
    ],
)
def test_a_mistake_names_the_file_only_if_it_is_there(tmp_path, text, overrides, names_the_file):
    file = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_preset(file, overrides)
    assert str(caught.value).startswith(f"{file}: ") == names_the_file


def test_a_file_that_is_no_preset_is_one_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("out: mäntel".encode("latin-1"))
    for file, message in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), ("latin.yaml", "no YAML")):
        with pytest.raises(UserError, match=message) as caught:
            load_preset(tmp_path / file)
        assert "\n" not in str(caught.value)


# A preset on top of another


def chain(folder: Path, **files: str) -> Path:
    """Presets by name, `__` for a slash; the last one's path."""
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


def test_a_preset_changes_single_keys_of_its_base(tmp_path):
    base = "epochs: 7\noptim: {lr: 0.5, warmup: 0.2}\nfreeze: [a, b]\nmodel: {stn: {transform: tps, points: 3}}\n"
    own = "base: base.yaml\noptim: {lr: 0.25}\nfreeze: [c]\nmodel: {stn: {points: 5}}\n"
    preset = load_preset(chain(tmp_path, base=base, own=own), ["optim.beta1=0.8"])
    assert (preset.epochs, preset.optim.lr, preset.optim.warmup, preset.optim.beta1) == (7, 0.25, 0.2, 0.8)
    assert preset.freeze == ("c",)  # a list is one value
    assert (preset.model.stn.transform, preset.model.stn.points) == ("tps", 5)


def test_a_base_may_have_a_base_in_another_folder(tmp_path):
    file = chain(
        tmp_path,
        lowest="seed: 1\nepochs: 2\nbatch_size: 3\n",
        deep__middle="base: ../lowest.yaml\nepochs: 20\nbatch_size: 30\n",
        top="base: deep/middle.yaml\nbatch_size: 300\n",
    )
    preset = load_preset(file)
    assert (preset.seed, preset.epochs, preset.batch_size) == (1, 20, 300)


def test_the_resolved_preset_needs_no_base(tmp_path):
    preset = load_preset(chain(tmp_path, base="epochs: 7\n", own="base: base.yaml\nseed: 3\n"))
    assert "base" not in dump_preset(preset)
    assert load_preset(written(tmp_path, dump_preset(preset))) == preset


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"own": "base: own.yaml\n"}, r"own.yaml is its own base; take out one `base:`"),
        ({"a": "base: own.yaml\n", "own": "base: a.yaml\n"}, r"own.yaml is its own base; take out one `base:`"),
        ({"own": "base: gone.yaml\n"}, r"cannot read .*gone.yaml \(the base of .*own.yaml\): No such file"),
        ({"own": "base: .\n"}, r"cannot read .* \(the base of .*own.yaml\): Is a directory"),
        ({"own": "base: [a.yaml]\n"}, r"own.yaml: base should be one path, e.g. base: drawn.yaml, got \['a.yaml'\]"),
        ({"a": "[1]", "own": "base: a.yaml\n"}, r"a.yaml should hold keys and values"),
        ({"a": "x: [", "own": "base: a.yaml\n"}, r"a.yaml is no YAML"),
        ({"a": "epoch: 1\n", "own": "base: a.yaml\n"}, r"unknown key 'epoch'; did you mean 'epochs'"),
    ],
    ids=str,
)
def test_a_base_that_cannot_be_is_one_line(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as caught:
        load_preset(chain(tmp_path, **files))
    assert "\n" not in str(caught.value)


def test_a_base_cannot_be_an_override(tmp_path):
    """It would come too late to be read."""
    with pytest.raises(UserError, match="unknown key 'base'"):
        load_preset(written(tmp_path), ["base=other.yaml"])


# Without control characters and line separators, which YAML does not keep.
WRITING = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
NAMES = st.text(WRITING, max_size=12) | st.sampled_from(["1e-3", "null", "yes", "12", "- a", "a: b", "#", "é"])
SOME = st.fixed_dictionaries(
    {},
    optional={
        "out": NAMES,
        "seed": st.integers(0, 2**63),
        "freeze": st.lists(NAMES, max_size=3),
        "bf16_on_cpu": st.booleans(),
        "model": st.fixed_dictionaries(
            {}, optional={"image_size": st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)), "name": NAMES}
        ),
        "captions": st.fixed_dictionaries({}, optional={"template": st.none() | NAMES, "drop": st.floats(0, 1)}),
        "optim": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-12, 1e6), "clip_norm": st.floats(0, 1e30)}),
    },
)


@given(values=SOME)
@settings(max_examples=40, deadline=None)
def test_what_is_dumped_loads_equal(values):
    preset = preset_from(values)
    again = yaml.safe_load(dump_preset(preset))
    assert preset_from(again) == preset
    assert dump_preset(preset_from(again)) == dump_preset(preset)
    assert list(again) == [f.name for f in dataclasses.fields(Preset)]


def test_a_preset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Preset().epochs = 3


@pytest.mark.parametrize(
    "override",
    [
        "batch_size=0",
        "epochs=-1",
        "optim.lr=-0.1",
        "data.workers=-2",
        "optim.wise_ft=1.1",
        "optim.warmup=50",
        "patience=-1",
        "optim.layer_decay=0",
        "data.scale=[0, 1]",
        "data.scale=[0.5, 1.1]",
        "data.shift=1.5",
        "data.turn_deg=181",
        "data.crop=0",
        "data.aspect=0.9",
        "data.flip=1.5",
        "model.drop_path=1",
        "model.image_size=[0, 96]",
        "model.stn.max_angle_deg=200",
    ],
)
def test_a_number_out_of_range_is_one_line(override: str, tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text("seed: 1\n")
    with pytest.raises(UserError, match=override.split("=")[0]) as caught:
        load_preset(file, [override])
    assert "\n" not in str(caught.value)
