"""The `fclip` command: every subcommand on a dozen products; a mistake is one line, exit code 2, and leaves nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from PIL import Image

from fclip.catalogue import open_catalogue, save_catalogue
from fclip.catalogue.readers import FORMATS
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.cli import main
from fclip.errors import UserError
from fclip.index import open_index
from fclip.store.filters import where_from_text

COMMANDS = ["catalogue", "draw", "export", "index", "interpolate", "models", "search", "serve"]


def run(*words: object) -> int:
    """Exit code of the command."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


@pytest.fixture(scope="session")
def shop(tmp_path_factory, catalogue, build):
    """A folder with a catalogue, a checkpoint, an index of both, and a photograph; only to be read."""
    folder = tmp_path_factory.mktemp("shop")
    save_catalogue(catalogue, folder / "garments")
    save_checkpoint(build(), folder / "model")
    main_words = ["index", "--checkpoint", folder / "model", "--catalogue", folder / "garments", "--out"]
    assert run(*main_words, folder / "index") == 0
    Image.new("RGB", (60, 80), "teal").save(folder / "photo.jpg")
    return folder


@pytest.fixture(autouse=True)
def own_folder_and_one_thread(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fclip.machine.tune_cpu", lambda: None)


def refused(capsys, *words: object) -> str:
    """The one line that the command refuses with, and nothing else."""
    capsys.readouterr()
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example(capsys, command) -> None:
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"\n  fclip {command}\s", shown)
    assert "Traceback" not in shown


def test_the_program_names_its_commands(capsys) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)


def test_help_does_not_wait_for_heavy_libraries() -> None:
    code = (
        "import sys; from fclip.cli import main\n"
        "try: main(['search', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'datasets', 'lancedb', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert time.monotonic() - began < 5  # a fifth of a second on an idle machine


# --- catalogue ---


def test_catalogue_reports_and_saves(shop, capsys) -> None:
    assert run("catalogue", shop / "garments", "--json", "report.json", "--save", "copy") == 0
    assert "24 pictures of 12 products" in capsys.readouterr().out
    with open("report.json") as file:
        assert json.load(file)["items"] == 12
    assert len(open_catalogue("copy")) == 24


def test_catalogue_maps_the_columns_of_a_table(shop, capsys, tmp_path) -> None:
    (tmp_path / "t.csv").write_text(f"sku,shot,hue\n1,{shop}/photo.jpg,red\n2,{shop}/photo.jpg,blue\n")
    mapped = ["--map", "id=sku", "--map", "image=shot", "--map", "attributes=hue"]
    assert run("catalogue", "t.csv", *mapped) == 0
    shown = capsys.readouterr().out
    assert "2 pictures of 2 products" in shown
    assert shown.startswith("columns: id=sku, item=sku, image=shot, attributes=hue\n")
    assert run("catalogue", "t.csv", "--map", "image=shot", "--map", "item=hue") == 0
    assert "left out: sku (numbers); name it in --map attributes=…, or" in capsys.readouterr().out
    assert run("index", "--checkpoint", shop / "model", "--catalogue", "t.csv", "--out", "i", *mapped) == 0
    assert open_index("i").values("hue") == {"blue": 1, "red": 1}


def test_prices_as_people_write_them_are_filtered_by_range_and_several_colours_each(shop, capsys, tmp_path) -> None:
    rows = ["1;{0};red|blue;1.299,90", "2;{0};red;899", "3;{0};green | blue;9,90", "4;{0};;on request"]
    text = "\n".join(["id;image;colour;price", *rows]).format(shop / "photo.jpg")
    (tmp_path / "t.csv").write_text(text + "\n")
    mapped = ["--map", "numbers=price", "--map", "lists=colour"]
    assert run("catalogue", "t.csv", *mapped) == 0
    shown = capsys.readouterr().out
    assert "\nprice: numbers from 9.9 to 1299.9; 1 of 4 are none, e.g. 'on request'\n" in shown
    assert "\ncolour: lists of up to 2 values, parted by '|'\n" in shown
    assert run("index", "--checkpoint", shop / "model", "--catalogue", "t.csv", "--out", "i", *mapped) == 0
    for where, found in {
        "price=1000..": "1",
        "price=9.9..899": "23",
        "price=1299.9": "1",
        "colour=red": "12",
        "colour=blue": "13",
        "colour!=red": "34",
    }.items():
        answers = ["search", "i", "--text", "dress", "--where", where, "--json", "answers.json"]
        assert run(*answers) == 0
        with open("answers.json") as file:
            assert "".join(sorted(answer["id"] for answer in json.load(file)["answers"])) == found, where
    assert open_index("i").values("colour") == {"blue": 2, "green": 1, "red": 2}
    named = ["--map", "attributes=price", "--overwrite"]
    assert run("index", "--checkpoint", shop / "model", "--catalogue", "t.csv", "--out", "i", *named) == 0
    question = ["search", "i", "--text", "dress", "--where", "price=5..10"]
    assert refused(capsys, *question).endswith("; if they are numbers, index it with --map numbers=price\n")


def test_strict_is_for_scripts(capsys, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("id,image\n1,nowhere.jpg\n")
    assert run("catalogue", "t.csv") == 0
    capsys.readouterr()
    assert run("catalogue", "t.csv", "--strict") == 2
    assert capsys.readouterr().err.startswith("error: t.csv: 1 pictures cannot be read")


# --- draw ---


def test_draw_writes_a_catalogue(capsys) -> None:
    assert run("draw", "garments", "--items", 3, "--views", 1, "--size", 32) == 0
    assert len(open_catalogue("garments")) == 3
    assert "exists already" in refused(capsys, "draw", "garments", "--items", 3)
    assert run("draw", "garments", "--items", 2, "--views", 1, "--size", 32, "--overwrite") == 0
    assert len(open_catalogue("garments")) == 2


# --- index ---


def test_index_embeds_one_split(shop, capsys) -> None:
    words = ["index", "--checkpoint", shop / "model", "--catalogue", shop / "garments", "--out", "some"]
    assert run(*words, "--split", "train") == 0
    training = [split for split in open_catalogue(shop / "garments")["split"] if split == "train"]
    assert len(open_index("some")) == len(training)
    assert "exists already" in refused(capsys, *words)
    assert run(*words, "--overwrite", "--batch-size", 7) == 0
    assert len(open_index("some")) == 24


def test_index_names_the_pictures_that_it_skipped(shop, capsys, tmp_path) -> None:
    rows = "".join(f"{n},nowhere{n}.jpg\n" for n in range(12))
    (tmp_path / "t.csv").write_text(f"id,image\ngood,{shop}/photo.jpg\n{rows}")
    assert run("index", "--checkpoint", shop / "model", "--catalogue", "t.csv", "--out", "i") == 0
    said = capsys.readouterr().err
    assert said.count("skipped ") == 10
    assert "1 pictures in i; 12 left out, listed in i/index.json" in said


def test_index_is_brought_up_to_date(shop, capsys) -> None:
    words = ["index", "--checkpoint", shop / "model", "--catalogue", shop / "garments", "--out", "some"]
    assert "no index in some" in refused(capsys, *words, "--update")
    assert run(*words, "--split", "train") == 0
    before = len(open_index("some"))
    capsys.readouterr()
    assert run(*words, "--update") == 0
    assert f"{24 - before} added, 0 changed, 0 removed; 24 pictures in some\n" in capsys.readouterr().err
    assert "--resume, --store and --measure-colour" in refused(capsys, *words, "--update", "--resume")
    assert "nothing is left to resume" in refused(capsys, *words, "--resume")


# --- search ---


def test_search_prints_draws_and_writes(shop, capsys) -> None:
    question = ["--text", "dress", "--image", shop / "photo.jpg", "--where", "category=dress|skirt", "-k", 3]
    assert run("search", shop / "index", *question, "--sheet", "new/sheet.png", "--json", "new/answers.json") == 0
    captured = capsys.readouterr()
    with Image.open("new/sheet.png") as sheet:
        assert sheet.format == "PNG"
    with open("new/answers.json") as file:
        written = json.load(file)
    assert written["texts"] == ["dress"]
    assert written["where"] == {"category": ["dress", "skirt"]}
    assert 1 <= len(written["answers"]) <= 3
    for answer in written["answers"]:
        assert sorted(answer) == ["attributes", "id", "item", "score", "title"]
        assert answer["attributes"]["category"] in ("dress", "skirt")
        assert f"{answer['score']:.3f}" in captured.out
    assert max(map(len, captured.out.splitlines())) <= 80
    assert "contact sheet: new/sheet.png" in captured.err


def test_search_says_which_value_no_product_has(shop, capsys) -> None:
    colours = open_index(shop / "index").values("colour")
    assert run("search", shop / "index", "--text", "dress", "--where", "colour=purpel") == 0
    captured = capsys.readouterr()
    assert captured.out == "no product fits colour=purpel\n"
    assert "no product has colour=purpel; " in captured.err
    assert all(colour in captured.err for colour in colours)


def test_search_says_which_filter_to_relax(shop, capsys) -> None:
    known = open_catalogue(shop / "garments")["attributes"][:]
    pairs = {(a["colour"], a["category"]) for a in known}
    colour, category = next((c, k) for c, _ in pairs for _, k in pairs if (c, k) not in pairs)
    filters = ["--where", f"colour={colour}", "--where", f"category={category}"]
    assert run("search", shop / "index", "--text", "dress", *filters) == 0
    captured = capsys.readouterr()
    assert captured.out == f"no product fits colour={colour}, category={category}\n"
    for left_out, group, value in (("colour", "category", category), ("category", "colour", colour)):
        count = sum(a[group] == value for a in known)
        assert f"without the filter on {left_out} {count} pictures fit" in captured.err
    assert run("search", shop / "index", "--text", "dress", "--where", "colour=mauve", "--where", "category=hat") == 0
    assert "leave out several" in capsys.readouterr().err


def test_search_with_everything(shop, capsys) -> None:
    ids = open_catalogue(shop / "garments")["id"][:]
    question = ["--text", "dress", "--image", shop / "photo.jpg", "--item", ids[0], "--avoid", "dots", "-k", 3]
    question += ["--like", ids[2], "--dislike", ids[4], "--weight", "text=2", "--weight", "image=0.5"]
    question += ["--fusion", "slerp", "--diversity", "0.4", "--explain", "--json", "answers.json"]
    assert run("search", shop / "index", *question) == 0
    shown = capsys.readouterr().out
    with open("answers.json") as file:
        written = json.load(file)
    assert [written[name] for name in ("items", "avoid", "liked", "disliked")] == [
        [ids[0]],
        ["dots"],
        [ids[2]],
        [ids[4]],
    ]
    assert written["weights"] == {"text": 2, "image": 0.5}
    products = {a["item"] for a in written["answers"]}
    assert len(products) == 3
    items = open_catalogue(shop / "garments")["item"][:]
    assert not products & {items[0], items[4]}
    for place, answer in enumerate(written["answers"], start=1):
        assert [part["kind"] for part in answer["why"]["shares"]] == ["text", "image", "item"]
        assert f"{place}. {answer['why']['shares'][0]['share']:.0%}".replace("%", " %") in shown
    with Image.open("search.png") as sheet:
        assert sheet.width > 500


def test_search_by_likes_alone(shop, capsys) -> None:
    ids = open_catalogue(shop / "garments")["id"][:]
    assert run("search", shop / "index", "--like", ids[0], "-k", 2) == 0
    assert ids[0] not in capsys.readouterr().out


def test_search_names_the_nearest_id(shop, capsys) -> None:
    ids = open_catalogue(shop / "garments")["id"][:]
    assert f"did you mean '{ids[0]}'?" in refused(capsys, "search", shop / "index", "--item", ids[0] + "x")
    assert "ids look like" in refused(capsys, "search", shop / "index", "--text", "a", "--like", "?????")


def test_search_says_where_a_long_text_is_cut(shop, capsys) -> None:
    assert run("search", shop / "index", "--text", "red dress " * 1000) == 0
    said = capsys.readouterr().err
    assert re.search(r"note: only the first \d+ tokens of “red dress .{30}…” are read\n", said)


def test_search_says_which_words_the_model_never_saw(shop, capsys) -> None:
    assert run("search", shop / "index", "--text", "zorp dress") == 0
    assert "note: the model never saw zorp in training" in capsys.readouterr().err


def test_search_shows_names_as_they_are(shop, capsys, tmp_path) -> None:
    (tmp_path / "t.csv").write_text(f"id,image,title,kind\n[red]1,{shop}/photo.jpg,[bold]dress[/bold],a\n")
    assert run("index", "--checkpoint", shop / "model", "--catalogue", "t.csv", "--out", "i") == 0
    assert run("search", "i", "--text", "dress") == 0
    shown = capsys.readouterr().out
    assert "[red]1" in shown
    assert "[bold]dress[/bold]" in shown


def test_search_with_a_checkpoint_that_has_moved(shop, capsys, build) -> None:
    assert run("search", shop / "index", "--text", "dress", "--checkpoint", shop / "model") == 0
    save_checkpoint(build(embed_dim=8), "other")
    said = refused(capsys, "search", shop / "index", "--text", "dress", "--checkpoint", "other")
    assert "was built with model" in said


# --- interpolate ---


def test_interpolate_writes_a_checkpoint_that_can_be_asked(shop, capsys, build) -> None:
    other = build()
    other.clip.logit_scale.data += 1
    save_checkpoint(other, "tuned")
    words = ["interpolate", shop / "model", "tuned", "--alpha", "0.25", "--out", "between"]
    assert run(*words) == 0
    assert capsys.readouterr().err.startswith(f"0.75 of {shop}/model and 0.25 of tuned in between")
    scale = build().clip.logit_scale.item()
    assert load_checkpoint("between").clip.logit_scale.item() == pytest.approx(scale + 0.25)
    assert "exists already" in refused(capsys, *words)
    assert run(*words, "--overwrite") == 0
    assert run("index", "--checkpoint", "between", "--catalogue", shop / "garments", "--out", "i") == 0


# --- export ---


def test_export_writes_what_another_library_loads(shop, capsys) -> None:
    assert run("export", shop / "model", "--to", "open_clip", "--out", "theirs") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"theirs for open_clip; largest difference of an embedding from fclip's: image \S+, text \S+\n", captured.err
    )
    assert "exists already" in refused(capsys, "export", shop / "model", "--to", "open_clip", "--out", "theirs")
    assert run("export", shop / "model", "--to", "open_clip", "--out", "theirs", "--overwrite") == 0


# --- mistakes ---

MISTAKES = {
    "catalogue nowhere.csv": "no such path",
    "catalogue {shop}/garments --save {shop}/index": "exists already",
    "catalogue {shop}/garments --save {shop}/index --overwrite": "not a saved catalogue",
    "catalogue {shop}/garments --json {shop}": "got a folder",
    "catalogue {shop}/garments --map id=sku": "columns of its own",
    "draw out --items 0": "items of at least 1",
    "draw {shop}/model --overwrite": "not a saved catalogue",
    "index --checkpoint nowhere --catalogue {shop}/garments --out out": "no checkpoint folder nowhere",
    "index --checkpoint {shop} --catalogue {shop}/garments --out out": "did you mean",
    "index --checkpoint {shop}/model --catalogue nowhere --out out": "no such path",
    "index --checkpoint {shop}/model --catalogue {shop}/garments --split tset --out out": "did you mean 'test'",
    "index --checkpoint {shop}/model --catalogue {shop}/garments --out {shop}/garments --overwrite": "is no index",
    "interpolate {shop}/model nowhere --out out": "no checkpoint folder nowhere",
    "interpolate {shop}/model {shop}/model --alpha 2 --out out": "expected an alpha between 0",
    "interpolate {shop}/model {shop}/model --out {shop}/garments --overwrite": "is no checkpoint",
    "export nowhere --to onnx --out out": "no checkpoint folder nowhere",
    "export {shop}/model --to onyx --out out": "did you mean 'onnx'",
    "export {shop}/model --to transformers --out out": "a timm image tower (test_resnet); use --to open_clip",
    "export {shop}/model --to open_clip --out {shop}/garments": "exists already",
    "export {shop}/model --to open_clip --out {shop}/garments --overwrite": "no export of fclip",
    "serve nowhere --port 0": "no index in nowhere",
    "serve {shop}/index --port 0 --checkpoint nowhere": "no checkpoint folder nowhere",
    "serve {shop}/index --host 203.0.113.1": "cannot listen at 203.0.113.1:8000",
    "search nowhere --text dress": "no index in nowhere",
    "search {shop}/index": "a text, a picture, an item or a like to search with, got nothing",
    "search {shop}/index --avoid stripes": "got only what to avoid",
    "search {shop}/index --text dress --fusion meen": "did you mean 'mean'",
    "search {shop}/index --text dress --diversity 2": "between 0 and 1, got 2",
    "search {shop}/index --text dress --where color=red": "did you mean 'colour'",
    "search {shop}/index --text dress --where red": "expected --where GROUP=VALUE",
    "search {shop}/index --text dress --sheet {shop}": "got a folder",
    "search {shop}/index --text dress -k 0": "at least 1 answer",
    "search {shop}/index --text dress --image nowhere.jpg": "no such picture",
    "search {shop}/index --text dress --weight text": "expected --weight KIND=TIMES",
    "search {shop}/index --text dress --weight words=2": "no weight of 'words'; known: image, item, text",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(shop, capsys, tmp_path, monkeypatch, words) -> None:
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)  # it would stay, with the stdout of this test
    before = sorted(shop.rglob("*"))
    assert MISTAKES[words] in refused(capsys, *words.format(shop=shop).split())
    assert list(tmp_path.iterdir()) == []
    assert sorted(shop.rglob("*")) == before


@pytest.mark.parametrize("words", [["search"], ["index", "--out", "x"], ["draw", "x", "--items", "many"], ["sarch"]])
def test_a_command_that_is_not_understood_leads_to_the_help(capsys, words) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert "--help" in captured.err
    assert "Traceback" not in captured.err


def test_where() -> None:
    assert where_from_text(["colour=red | blue", " gender = Women", "size=a=b"]) == {
        "colour": ["red", "blue"],
        "gender": ["Women"],
        "size": ["a=b"],
    }


@pytest.mark.parametrize("conditions", [["red"], ["=red"], ["colour="], ["colour=red|"], ["a=1", "a=2"]])
def test_where_of_another_form_is_refused(conditions) -> None:
    with pytest.raises(UserError, match="--where"):
        where_from_text(conditions)


def test_the_catalogues_help_names_every_format(capsys) -> None:
    assert run("catalogue", "--help") == 0
    text = "".join(capsys.readouterr().out.split())  # wrapped at spaces and hyphens
    assert not [name for name in FORMATS if name not in text]


def test_a_picture_that_is_cut_off_is_not_written_and_named(shop, tmp_path, capsys) -> None:
    (tmp_path / "cut.jpg").write_bytes((shop / "photo.jpg").read_bytes()[:-200])
    (tmp_path / "t.csv").write_text(f"id,image,split\n1,{shop}/photo.jpg,val\n2,cut.jpg,val\n3,gone.jpg,val\n")
    assert run("catalogue", "t.csv", "--to", "webdataset", "--out", "shards") == 0
    shown = capsys.readouterr()
    assert "2 pictures cannot be read: " in shown.out
    assert "1 pictures in 1 shards in shards; 2 unreadable left out (2, 3), listed in shards/index.json" in shown.err


def test_a_catalogue_is_written_as_shards_that_open_again(shop, tmp_path, capsys) -> None:
    words = ["catalogue", shop / "garments", "--to", "webdataset", "--out", tmp_path / "shards", "--shard-size", 10]
    assert run(*words) == 0
    assert re.search(r"24 pictures in \d shards in .*shards\n", capsys.readouterr().err)
    assert "exists already" in refused(capsys, *words)
    assert run("catalogue", tmp_path / "shards", "--stream", "--strict") == 0
    (next((tmp_path / "shards").glob("train-*"))).write_bytes(b"")
    assert run("catalogue", tmp_path / "shards", "--stream", "--strict") == 2
    assert "train-00000.tar is damaged: it is not what was written" in capsys.readouterr().err
    assert "together" in refused(capsys, "catalogue", shop / "garments", "--to", "parquet")
    assert "unknown form 'zip'" in refused(capsys, "catalogue", shop / "garments", "--to", "zip", "--out", "x")
