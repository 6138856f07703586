"""The paper's Table 1 on a dozen drawn garments with models that know nothing: what is asked, kept, left out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from eval.compare import difference
from eval.surfacing import run_surfacing
from experiments.table1 import PAPER, digest, main, read_rows
from fclip.catalogue import open_catalogue, save_catalogue
from fclip.catalogue.deepfashion import FINE
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.errors import UserError
from fclip.machine import tune_products
from fclip.pretrained import open_model


@pytest.fixture(scope="module")
def shop(tmp_path_factory, catalogue, build):
    """Two checkpoints (the second with captions of its own), a transformers folder, a catalogue; only to be read."""
    folder = tmp_path_factory.mktemp("shop")
    save_catalogue(catalogue, folder / "garments")
    first = build()
    save_checkpoint(first, folder / "first")
    second = build(embed_dim=8)
    second.card = replace(
        second.card, captions=replace(second.captions, template="{colour} {category}", paraphrases=())
    )
    save_checkpoint(second, folder / "second")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=8)).save_pretrained(folder / "clip")
    return folder


def run(*words: object) -> int:
    """Exit code of the program."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


def table(shop, out, *models: str, split: str = "all", more: tuple = ()) -> int:
    words = [word for model in models for word in ("--model", model)]
    return run("--catalogue", shop / "garments", "--split", split, "--out", out, "--bootstrap", 20, *words, *more)


@pytest.fixture(scope="module")
def made(shop, tmp_path_factory):
    """The folder of one run of three models and one that is not there."""
    out = tmp_path_factory.mktemp("table1")
    rows = (f"CLIP*={shop}/clip", f"A = b={shop}/second", f"CLIP={shop}/first", "Gone=runs/nowhere/best")
    assert table(shop, out, *rows) == 0
    return out


def results(out) -> dict[str, dict]:
    found = [json.loads(file.read_text()) for file in out.glob("results/*.json")]
    return {result["model"]["name"]: result for result in found}


def test_all_models_answer_the_captions_of_the_first_checkpoint(made, shop):
    found = results(made)
    assert found.keys() == {"CLIP*", "A = b", "CLIP"}
    assert all(difference(found["CLIP*"], other) is None for other in found.values())
    assert found["CLIP*"]["groups"] == ["colour", "category"]
    tune_products()  # as the program does
    alone = run_surfacing(shop / "second", shop / "garments", "all", bootstrap=20, progress=False)
    for part in ("metrics", "pictures", "captions_sha256", "baselines", "counts"):
        assert found["A = b"][part] == alone[part]
    assert all(other["baselines"] == alone["baselines"] for other in found.values())


def test_the_table_holds_the_rows_in_order_the_reasons_and_the_papers_numbers(made):
    written = (made / "table1.md").read_text()
    assert "| Model | Cos Simil. | Text SFA | Attr. SFA |" in written
    own, papers = written.split("### The paper's own numbers")
    places = [own.index(f"| {label} |") for label in ("CLIP*", "A = b", "CLIP", "chance", "most frequent")]
    assert places == sorted(places)
    assert "- no row Gone: no checkpoint folder runs/nowhere/best" in own
    text = results(made)["CLIP"]["metrics"]["text_sfa"]["value"]
    assert f"| {text:.3f} [" in next(line for line in own.splitlines() if line.startswith("| CLIP |"))
    assert "| Finetuned FCLIP | 0.288 | 0.338 | 0.819 |" in papers
    assert (made / "pca.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_used_again_until_something_changes(shop, tmp_path, capsys, monkeypatch):
    import eval.surfacing as surfacing

    measured, whole = [], surfacing.surfacing_of

    def spy(model, *rest, **options):
        measured.append(model.fingerprint)
        return whole(model, *rest, **options)

    monkeypatch.setattr(surfacing, "surfacing_of", spy)
    first, second = (load_checkpoint(shop / name).fingerprint for name in ("first", "second"))
    row = f"Ours={shop}/first"
    assert table(shop, tmp_path, row) == table(shop, tmp_path, row) == 0
    assert measured == [first]
    assert "measured before" in capsys.readouterr().err
    assert table(shop, tmp_path, row, more=("--again",)) == 0
    assert table(shop, tmp_path, row, split="train") == 0
    assert measured == [first] * 3
    assert table(shop, tmp_path, row, f"Other={shop}/second", split="train") == 0
    assert measured == [first] * 3 + [second]
    assert table(shop, tmp_path, f"Other={shop}/second", row, split="train") == 0  # now in the captions of the other
    assert measured == [first] * 3 + [second, second, first]


def test_the_digest_sees_rows_and_picture_files(shop, tmp_path, catalogue):
    whole = open_catalogue(shop / "garments")
    assert digest(whole) == digest(open_catalogue(shop / "garments"))
    assert digest(whole) != digest(whole.select(range(len(whole) - 1)))
    (tmp_path / "shirt").mkdir()
    for number in range(2):
        (tmp_path / "shirt" / f"{number}.jpg").write_bytes(catalogue[number]["image"]["bytes"])
    before = digest(open_catalogue(tmp_path))
    assert digest(open_catalogue(tmp_path)) == before
    (tmp_path / "shirt" / "0.jpg").write_bytes(catalogue[5]["image"]["bytes"] + b"\0")
    assert digest(open_catalogue(tmp_path)) != before


def test_published_models_alone_are_asked_with_the_catalogues_captions(shop, tmp_path, captions):
    assert table(shop, tmp_path, f"FCLIP*={shop}/clip") == 0
    assert results(tmp_path)["FCLIP*"]["groups"] == list(captions.groups)
    assert (
        open_model(shop / "clip", list(captions.groups)).fingerprint
        == results(tmp_path)["FCLIP*"]["model"]["fingerprint"]
    )


def test_it_works_on_deepfashions_fine_annotations(shop, tmp_path):
    """The paper's own data."""
    notes = tmp_path / "Anno_fine"
    notes.mkdir()
    for split, number in (("train", 2), ("test", 4)):
        names = [f"img/{split}_dress_{i}/img_1.jpg" for i in range(number)]
        for i, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True)
            Image.new("RGB", (40, 50), (60 * i, 100, 200)).save(tmp_path / name)
        answers = [
            [int(place == i % len(words)) for words in FINE.values() for place in range(len(words))]
            for i in range(number)
        ]
        lines = {"": names, "_attr": [" ".join(map(str, row)) for row in answers], "_cate": ["1"] * number}
        for ending, rows in (lines | {"_bbox": ["0 0 40 50"] * number}).items():
            (notes / f"{split}{ending}.txt").write_text("\n".join(rows) + "\n")
        (notes / f"{split}_landmarks.txt").write_text((" ".join(["0"] * 16) + "\n") * number)
    (notes / "list_category_cloth.txt").write_text("1\ncategory_name  category_type\nDress  3\n")
    words = ("--format", "deepfashion-fine", "--model", f"FCLIP*={shop}/clip", "--bootstrap", 10)
    assert run("--catalogue", tmp_path, *words, "--out", tmp_path / "out") == 0
    result = results(tmp_path / "out")["FCLIP*"]
    assert result["counts"]["pictures"] == 4
    assert result["groups"] == ["pattern", "sleeve", "length", "neckline", "fabric", "fit"]


def test_without_models_it_is_the_papers_six_rows(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--catalogue", shop / "garments") == 2
    assert capsys.readouterr().err.startswith("CLIP* (ViT-B/32): clip-vit-b-32\n")
    save_checkpoint(load_checkpoint(shop / "first"), tmp_path / "runs" / "stn" / "best")
    assert run("--catalogue", shop / "garments", "--bootstrap", 0, "--split", "all") == 0
    written = (tmp_path / "runs" / "table1" / "table1.md").read_text()
    own = written.split("### The paper's own numbers")[0]
    assert [label for label in PAPER if f"- no row {label}: " in own] == [name for name in PAPER if name != "STN-FCLIP"]
    assert "- no row FCLIP*: cannot fetch patrickjohncyh/fashion-clip: " in own
    assert "\n| STN-FCLIP | " in own


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "runs/fclip/best"), "expected --model LABEL=SOURCE, e.g. 'Ours=runs/fclip/best', got 'runs/fcli"),
        (("--model", "A=fashionclip", "--model", "A=clip-rn50"), "--model names the row 'A' twice"),
        (("--model", "A=fashoinclip"), "none of 1 models could be measured; A: no checkpoint folder fashoinclip, and"),
        (("--split", "tset"), "split 'tset' is empty; did you mean 'test'?"),
        (("--format", "deepfashion-fine"), "no pictures listed in"),
    ],
)
def test_a_mistake_is_one_line(shop, tmp_path, capsys, words, told):
    assert run("--catalogue", shop / "garments", "--out", tmp_path / "out", *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last


def test_labels_that_look_alike_in_file_names_are_kept_apart(tmp_path):
    files = {row.file for row in read_rows(["CLIP=a", "CLIP*=b", "clip=c"], tmp_path)}
    assert len(files) == 3
    with pytest.raises(UserError, match="expected --model LABEL=SOURCE"):
        read_rows(["=a"], tmp_path)


def test_help_teaches_with_an_example_and_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys\nfrom experiments.table1 import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'datasets', 'numpy', 'matplotlib', 'sklearn', 'transformers'} & set(sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "python -m experiments.table1 --catalogue" in shown
