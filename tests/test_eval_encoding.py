"""Embeddings are computed once, kept whole, and are the same bits whoever computes them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from accelerate import PartialState
from datasets import Dataset
from PIL import Image

import eval.cache as cache
from eval.__main__ import main
from eval.encoding import embed_images, embed_texts
from fclip.catalogue.storage import save_catalogue
from fclip.checkpoint import save_checkpoint
from fclip.embedding import embed_catalogue
from fclip.embedding import embed_texts as embed_texts_anew
from fclip.errors import UserError, run_program
from fclip.features import picture_key
from fclip.processes import joined, said_once, together
from fclip.references import in_tar

BROKEN = 7
MANY_TEXTS = [f"red dress {i}" for i in range(600)]
"""Three forward passes."""


@pytest.fixture
def kept(tmp_path):
    """The folder; embeddings are kept there."""
    with cache.cached(tmp_path / "kept"):
        yield tmp_path / "kept"


@pytest.fixture
def named(model):
    model.fingerprint = "f00d"
    return model


@pytest.fixture
def passes(monkeypatch):
    """passes(model) → a list that grows by the number of rows in every forward pass."""

    def watch(model):
        seen = []
        for name in ("encode_image", "encode_text"):
            encode = getattr(model, name)
            monkeypatch.setattr(model, name, lambda rows, encode=encode: seen.append(len(rows)) or encode(rows))
        return seen

    return watch


def test_a_second_protocol_finds_the_same_bits_and_computes_nothing(named, catalogue, broken, kept, passes):
    damaged, texts = broken(catalogue, [BROKEN]), ["red dress", "blue coat"]
    expected, seen = embed_catalogue(named, damaged), passes(named)
    computed, found = embed_images(named, damaged), embed_images(named, damaged)
    assert seen == [23]
    for images in (computed, found):
        np.testing.assert_array_equal(images.vectors, expected.vectors)
        np.testing.assert_array_equal(images.rows, expected.rows)
        assert images.skipped == expected.skipped
    told, again = embed_texts(named, texts), embed_texts(named, texts)
    assert seen == [23, 2]
    np.testing.assert_array_equal(told, again)
    np.testing.assert_array_equal(told, embed_texts_anew(named, texts))
    assert len(list(kept.iterdir())) == 2


def test_what_is_read_may_be_written_to_and_stays_as_it_is_on_the_disk(named, catalogue, kept):
    first = embed_images(named, catalogue).vectors.copy()
    embed_images(named, catalogue).vectors[:] = 0
    np.testing.assert_array_equal(embed_images(named, catalogue).vectors, first)


def swapped(rows: Dataset) -> Dataset:
    columns = rows.to_dict()
    columns["image"][0], columns["image"][2] = columns["image"][2], columns["image"][0]
    return Dataset.from_dict(columns, features=rows.features)


def renamed(rows: Dataset) -> Dataset:
    columns = rows.to_dict()
    columns["id"][3] = "another"
    return Dataset.from_dict(columns, features=rows.features)


OTHERS = {
    "fewer pictures": lambda m, c: embed_images(m, c.select(range(9))),
    "another order": lambda m, c: embed_images(m, c.select([*range(1, 24), 0])),
    "another picture": lambda m, c: embed_images(m, swapped(c)),
    "another id": lambda m, c: embed_images(m, renamed(c)),
    "other passes": lambda m, c: embed_images(m, c, batch_size=5),
    "text": lambda m, c: embed_texts(m, ["red dress"]),
    "texts": lambda m, c: embed_texts(m, ["red dress", "blue"]),
    "texts in another order": lambda m, c: embed_texts(m, ["blue", "red dress"]),
}


def test_whatever_changes_the_bits_is_computed_anew(named, catalogue, kept, passes):
    seen = passes(named)
    embed_images(named, catalogue)
    for name, embed in OTHERS.items():
        before = len(seen)
        embed(named, catalogue)
        assert len(seen) > before, name
    card, fingerprint = named.card, named.fingerprint
    for change in ({"card": replace(card, preprocess=replace(card.preprocess, resize_mode="longest"))},
                   {"card": replace(card, architecture={**card.architecture, "quick_gelu": True})},
                   {"fingerprint": "beef"}):  # fmt: skip
        vars(named).update({"card": card, "fingerprint": fingerprint} | change)
        before = len(seen)
        embed_images(named, catalogue)
        assert len(seen) > before, change
    vars(named).update({"card": card, "fingerprint": fingerprint})
    torch.set_float32_matmul_precision("medium")  # as `fclip.machine.tune_products` does on some processors
    try:
        before = len(seen)
        embed_images(named, catalogue)
        assert len(seen) > before
    finally:
        torch.set_float32_matmul_precision("highest")
    before = len(seen)
    embed_images(named, catalogue)
    assert len(seen) == before


def test_a_file_that_changed_is_another_picture(named, catalogue, kept, passes, tmp_path):
    file = tmp_path / "picture.png"
    columns = catalogue.select(range(2)).to_dict()
    columns["image"][0] = {"bytes": None, "path": str(file)}
    rows, vectors = Dataset.from_dict(columns, features=catalogue.features), []
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 40), colour).save(file)
        os.utime(file, ns=(0, len(vectors)))
        vectors.append(embed_images(named, rows).vectors)
    assert not np.array_equal(vectors[0][0], vectors[1][0])
    np.testing.assert_array_equal(vectors[0][1], vectors[1][1])


def test_a_shard_that_changed_has_other_pictures(tmp_path):
    shard = tmp_path / "shop.tar"
    cell = {"id": "7", "image": {"bytes": None, "path": in_tar(shard, 512, 9)}}
    shard.write_bytes(b"1")
    before = picture_key(cell)
    assert picture_key(cell) == before
    shard.write_bytes(b"12")
    assert picture_key(cell) != before


def test_only_models_with_a_fingerprint_and_only_where_it_is_asked_for(model, catalogue, kept):
    assert model.fingerprint == "unsaved"
    embed_images(model, catalogue)
    embed_texts(model, ["red"])
    model.fingerprint = "f00d"
    with cache.cached(None):
        embed_images(model, catalogue)
    embed_texts(model, [])
    assert not kept.exists()


def cut(data: bytes) -> bytes:
    return data[:-9]


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda _: b"", lambda _: b"\xff" * 99, lambda _: b"\2" + 7 * b"\0" + b"[]"]
)
def test_a_damaged_file_is_told_once_and_made_again(named, catalogue, kept, capsys, damage):
    expected = embed_images(named, catalogue)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    np.testing.assert_array_equal(embed_images(named, catalogue).vectors, expected.vectors)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the kept embeddings {file} are damaged (")
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_a_line(named, catalogue, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with cache.cached(tmp_path / "file"):
        assert len(embed_images(named, catalogue).vectors) == 24
    assert "warning: cannot keep embeddings in" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(named, catalogue, kept, capsys, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert len(embed_images(named, catalogue).vectors) == 24
    assert list(kept.iterdir()) == []
    assert "No space left" in capsys.readouterr().err


def test_what_was_not_used_for_longest_makes_room(named, catalogue, kept, monkeypatch):
    for clock, first in enumerate((0, 1, 2)):
        embed_images(named, catalogue.select(range(first, 24)))
        for file in kept.iterdir():
            if file.stat().st_mtime_ns > 3:
                os.utime(file, ns=(clock, clock))
    second = sorted(kept.iterdir(), key=lambda file: file.stat().st_mtime_ns)[1]
    embed_images(named, catalogue)  # used: now the second is the oldest
    monkeypatch.setattr(cache, "LIMIT", sum(file.stat().st_size for file in kept.iterdir()))
    embed_texts(named, ["red"])
    assert not second.exists()
    assert len(list(kept.iterdir())) == 3


def test_where_embeddings_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.default_folder() == tmp_path / "fclip" / "embeddings"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    assert cache.default_folder() == tmp_path / "mine"
    monkeypatch.setenv(cache.VARIABLE, "")
    assert cache.default_folder() is None


@pytest.fixture(scope="module")
def shop(build, catalogue, broken, tmp_path_factory) -> Path:
    """A folder with a checkpoint and a catalogue."""
    folder = tmp_path_factory.mktemp("shop")
    save_checkpoint(build(), folder / "model")
    save_catalogue(broken(catalogue, [BROKEN]), folder / "garments")
    return folder


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    return end.value.code or 0


def options(shop: Path, result: Path) -> list[object]:
    named = ["--checkpoint", shop / "model", "--catalogue", shop / "garments", "--split", "all"]
    return ["surfacing", *named, "--bootstrap", 20, "--batch-size", 5, "--json", result]


def test_the_program_keeps_embeddings_shows_and_clears_them(shop, tmp_path, capsys):
    kept = tmp_path / "kept"
    for words in (["--cache", kept], ["--cache", kept], ["--cache", kept, "--no-cache"]):
        assert run(*words, *options(shop, tmp_path / f"{len(words)}.json")) == 0
    assert len(cache.files(kept)) == 2
    capsys.readouterr()
    assert run("--cache", kept, "cache", "--clear") == 0
    assert f"{kept}: 2 sets of embeddings, 0.0 MB, removed" in capsys.readouterr().out
    assert list(kept.iterdir()) == []
    assert run("cache") == 0
    assert "no cache" in capsys.readouterr().out
    with_cache, without = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (2, 3))
    assert without | {"command": ""} == with_cache | {"command": ""}


def _measure(rank: int, ports: list[int], shop: Path, out: Path) -> None:
    """One of two processes: measures twice, the second time from what is kept, and notes what it encoded."""
    from fclip.model import Model
    from fclip.pretrained import open_model

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": ports[2]}
    os.environ |= {k: str(v) for k, v in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    encode, seen = Model.encode_image, []
    Model.encode_image = lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels)
    with joined():
        model = open_model(shop / "model", [])
        np.save(out / f"texts-{rank}.npy", embed_texts(model, MANY_TEXTS))
    with (out / f"{rank}.txt").open("w") as told, contextlib.redirect_stdout(told):
        for turn in range(2):
            os.environ["MASTER_PORT"] = str(ports[turn])
            with contextlib.suppress(SystemExit):
                main([str(word) for word in ["--cache", out / "kept", *options(shop, out / f"{rank}-{turn}.json")]])
    (out / f"{rank}.json").write_text(json.dumps(seen))
    os.environ["MASTER_PORT"] = str(ports[3])
    with (out / f"{rank}.err").open("w") as told, contextlib.redirect_stderr(told):
        try:
            main(["surfacing", "--checkpoint", str(shop / "model"), "--catalogue", str(out / "nowhere")])
        except SystemExit as end:
            told.write(f"status {end.code}")


@pytest.fixture(scope="module")
def measured(shop, tmp_path_factory) -> Path:
    """Where two processes left what they found."""
    out = tmp_path_factory.mktemp("processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fclip.pretrained", "fclip.embedding", "eval.surfacing", "accelerate", "pytest"])
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in free]
    started = [context.Process(target=_measure, args=(rank, ports, shop, out)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    return out


def test_two_processes_give_the_result_of_one_to_the_last_digit(shop, measured, tmp_path, capsys):
    assert run(*options(shop, tmp_path / "alone.json")) == 0
    alone, *joint = (
        json.loads(file.read_text()) for file in (tmp_path / "alone.json", measured / "0-0.json", measured / "0-1.json")
    )
    for result in joint:
        assert result | {"command": ""} == alone | {"command": ""}
    assert alone["counts"]["unreadable"] == 1


def test_two_processes_divide_the_pictures_and_find_what_is_kept(measured):
    assert json.loads((measured / "0.json").read_text()) == [5, 5, 4]  # parts 0, 2, 4 of 24 pictures
    assert json.loads((measured / "1.json").read_text()) == [4, 5]  # the eighth picture is broken
    assert len(cache.files(measured / "kept")) == 2


def test_two_processes_divide_the_texts(shop, measured):
    from fclip.checkpoint import load_checkpoint

    expected = embed_texts_anew(load_checkpoint(shop / "model"), MANY_TEXTS)
    for rank in (0, 1):
        np.testing.assert_array_equal(np.load(measured / f"texts-{rank}.npy"), expected)


def test_only_the_main_process_writes_and_prints(measured):
    assert "Text SFA" in (measured / "0.txt").read_text()
    assert (measured / "1.txt").read_text() == ""
    assert not list(measured.glob("1-*.json"))


def test_a_mistake_is_said_by_the_first_process_alone(measured):
    lines = (measured / "0.err").read_text().splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1:] == ["status 2"]
    assert (measured / "1.err").read_text() == "status 2"


def test_a_mistake_of_another_process_alone_is_said_by_it(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def wrong() -> None:
        raise UserError("no such catalogue")

    monkeypatch.setattr("fclip.processes.WAIT_S", 0.2)
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(first.getsockname()[1])}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit, match="2"):
            run_program(said_once(app), [], "eval")
    assert capsys.readouterr().err == "error: process 1: no such catalogue\n"
    with pytest.raises(SystemExit, match="2"):
        run_program(said_once(app), [], "eval")  # the first is gone, and has said it
    assert capsys.readouterr().err == ""


def test_faults_of_ours_keep_their_traceback_in_every_process(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def broken(**_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        said_once(broken)()


def test_processes_that_train_are_not_joined():
    PartialState(cpu=True)
    assert together() is None


def test_one_process_where_several_were_asked_for_is_refused(monkeypatch, capsys):
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert run("cache") == 2
    assert "error: expected several processes" in capsys.readouterr().err


def test_no_readable_picture_is_refused(named, catalogue, broken, kept):
    with pytest.raises(UserError, match="none of the 24 pictures can be read"):
        embed_images(named, broken(catalogue, [*range(24)]))
    assert not kept.exists()
