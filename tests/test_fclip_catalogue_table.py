"""Tables: what is guessed, what is mapped, and what is said when it does not fit."""

import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fclip.catalogue import table
from fclip.catalogue.assemble import assemble, split_name
from fclip.catalogue.schema import REQUIRED, split_of
from fclip.catalogue.table import Columns, column_names, columns_from_pairs, is_attribute, open_table, separator
from fclip.errors import UserError

SHOP = """sku,file,colour,size,price,name,subset
007,a.jpg,red,M,9.90,NA,train
007,b.jpg,,L,9.90,NA,
008,sub/c.jpg,NA,M,12,"Coat, long",validation
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, text, name="shop.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_columns_are_guessed_by_name_and_text_stays_text(tmp_path):
    catalogue = open_table(write(tmp_path, SHOP))
    assert tuple(catalogue.column_names[:5]) == REQUIRED
    assert catalogue["id"][:] == ["a.jpg", "b.jpg", "sub/c.jpg"]  # no id column: the image path
    assert catalogue["item"][:] == ["007", "007", "008"]
    assert catalogue["split"][:] == ["train", "train", "val"]  # the second picture follows its product
    assert catalogue["title"][:] == ["NA", "NA", "Coat, long"]
    assert catalogue["attributes"][:] == [  # the price is no attribute; only an empty field is unknown
        {"colour": "red", "size": "M"},
        {"colour": None, "size": "L"},
        {"colour": "NA", "size": "M"},
    ]
    assert catalogue[0]["image"] == {"bytes": None, "path": f"{tmp_path}/a.jpg"}


def said(caplog, path, columns=None):
    caplog.clear()
    with caplog.at_level(logging.INFO, "fclip.catalogue.table"):
        open_table(path, columns)
    return caplog.messages


def test_what_was_chosen_and_what_was_left_out_is_said(tmp_path, caplog):
    path = write(tmp_path, SHOP)
    assert said(caplog, path) == [
        "columns: id=file, item=sku, image=file, split=subset, title=name, attributes=colour,size",
        "left out: price (numbers); name it in --map attributes=colour,size,…, "
        "or to filter by range in --map numbers=price",
    ]
    assert said(caplog, path, Columns(id="sku", attributes=("size", "price"))) == [
        "columns: id=sku, item=sku, image=file, split=subset, title=name, attributes=size,price"
    ]
    rows = "".join(f"{n}.jpg,{n / 7:.2f},{'long ' * 12}{n % 2},,red\n" for n in range(190))
    assert said(caplog, write(tmp_path, "image,price,text,note,hue\n" + rows)) == [
        "columns: id=image, image=image, attributes=hue",
        "left out: price (190 different values), text (long texts), note (empty); "
        "name those you want in --map attributes=hue,…",
    ]


def test_what_a_parquet_file_leaves_out_is_said_without_its_pictures(tmp_path, caplog):
    columns = {"jpeg": [b"x", b"y"], "mask": [b"x", b"y"], "year": [1, 2], "ok": [True, False], "hue": ["a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert said(caplog, tmp_path / "a.parquet") == [
        "columns: image=jpeg, attributes=hue",
        "left out: year (numbers), ok (bool); name those you want in --map attributes=hue,…, "
        "or to filter by range in --map numbers=year",
    ]


PRICES = """sku;image;colour;sizes;price;weight
1;a.jpg;red|blue;S, M;1.299,90 €;1,250
2;b.jpg;red;M;899;0,800
3;c.jpg;;M;n/a;
"""


def test_numbers_and_lists_are_groups_besides_the_others(tmp_path, caplog):
    path = write(tmp_path, PRICES)
    columns = columns_from_pairs(["numbers=price", "numbers=weight", "lists=colour"])
    assert columns == Columns(numbers=("price", "weight"), lists=("colour",))
    assert open_table(path, columns)["attributes"][:] == [  # sizes is guessed still, and colour where it was
        {"colour": ["red", "blue"], "sizes": "S, M", "price": "1299.9", "weight": "1.25"},
        {"colour": ["red"], "sizes": "M", "price": "899", "weight": "0.8"},
        {"colour": None, "sizes": "M", "price": None, "weight": None},
    ]
    assert said(caplog, path, columns) == [
        "columns: id=image, item=sku, image=image, attributes=colour,sizes,price,weight",
        "price: numbers from 899 to 1299.9; 1 of 3 are none, e.g. 'n/a'",
        "weight: numbers from 0.8 to 1.25",
        "colour: lists of up to 2 values, parted by '|'",
    ]
    named = columns_from_pairs(["attributes=price,sizes", "numbers=price", "lists=sizes, colour"])
    assert open_table(path, named)[0]["attributes"] == {
        "price": "1299.9",
        "sizes": ["S", "M"],
        "colour": ["red", "blue"],
    }


def test_without_asking_no_column_is_rewritten(tmp_path):
    columns = Columns(attributes=("price", "weight", "colour"))
    first = open_table(write(tmp_path, PRICES), columns)[0]["attributes"]
    assert first == {"price": "1.299,90 €", "weight": "1,250", "colour": "red|blue"}


def test_in_parquet_numbers_and_lists_pass_through(tmp_path):
    columns = {
        "jpeg": [b"x", b"y"],
        "price": [9.125, None],
        "year": [2011, 2012],
        "hue": [["red"], None],
        "mask": [b"x"] * 2,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = open_table(tmp_path / "a.parquet", Columns(numbers=("price", "year"), lists=("hue",)))["attributes"][:]
    assert rows == [{"hue": ["red"], "price": "9.125", "year": "2011"}, {"hue": None, "price": None, "year": "2012"}]
    for wanted in (Columns(numbers=("hue",)), Columns(numbers=("mask",)), Columns(lists=("mask",))):
        with pytest.raises(
            UserError, match=r"expected text or (numbers|lists) in column '(hue|mask)', got (list|binary)"
        ):
            open_table(tmp_path / "a.parquet", wanted)


def test_named_columns_win_over_guesses(tmp_path):
    columns = columns_from_pairs(["id=name", "item=sku", "image=file", "attributes=price,colour"])
    catalogue = open_table(write(tmp_path, SHOP), columns)
    assert catalogue[2]["id"] == "Coat, long"
    assert list(catalogue[0]["attributes"].items()) == [("price", "9.90"), ("colour", "red")]


@pytest.mark.parametrize("place", ["images", "."])
def test_pictures_lie_beside_the_table_or_in_its_image_folder(tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "1.jpg").write_bytes(b"")
    catalogue = open_table(write(tmp_path, "image,colour\n1.jpg,red\n/else/2.jpg,blue\n"))
    assert [cell["path"] for cell in catalogue["image"]] == [str(tmp_path / place / "1.jpg"), "/else/2.jpg"]


def test_tsv_with_a_byte_order_mark_and_line_breaks_in_quotes(tmp_path):
    text = '\ufeffid\timage\tcolour\n01\t1.jpg\t"dark\nred"\n'
    catalogue = open_table(write(tmp_path, text, "shop.tsv"))
    assert catalogue[0]["id"] == "01"
    assert catalogue[0]["attributes"] == {"colour": "dark\nred"}


def test_parquet_with_pictures_numbers_lists_and_flags(tmp_path):
    columns = {
        "id": [1, 2],
        "jpeg": [b"x", b"y"],
        "colours": [["red", "blue"], None],
        "year": [2011, 2012],
        "ok": [True, False],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    catalogue = open_table(tmp_path)
    assert catalogue["id"][:] == ["1", "2"]
    assert catalogue[0]["image"] == {"bytes": b"x", "path": None}
    assert catalogue["attributes"][:] == [{"colours": ["red", "blue"]}, {"colours": None}]
    pq.write_table(pa.table(columns | {"id": [3, 4]}), tmp_path / "b.parquet")
    assert open_table(f"{tmp_path}/*.parquet")["id"][:] == ["1", "2", "3", "4"]


def test_products_without_a_split_get_that_of_their_hash(tmp_path):
    rows = "".join(f"{n},{n}.jpg\n" for n in range(200))
    catalogue = open_table(write(tmp_path, "sku,image\n" + rows))
    assert catalogue["split"][:] == [split_of(str(n)) for n in range(200)]
    assert catalogue[0]["attributes"] == {}  # pictures without attributes are a catalogue too


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", Columns(), "cannot read table .*Empty CSV"),
        ("image,colour\n", Columns(), "no rows in .*shop.csv"),
        ("id,colour\n1,red\n", Columns(), "no image column in .*image=COLUMN.* id, colour"),
        (SHOP, Columns(id="skuu"), "no column 'skuu' .*did you mean 'sku'"),
        (SHOP, Columns(attributes=("color",)), "did you mean 'colour'"),
        ("id;image;a;a\n1;1.jpg;x;y\n", Columns(), "name of its own for each column of .*, got 'a' twice; mend"),
        ("id;image;a; a\n1;1.jpg;x;y\n", Columns(), "got 'a' twice"),
        (",image,\n1,1.jpg,y\n", Columns(), "name of its own for each column of .*, got several without one"),
        (SHOP, Columns(numbers=("prize",)), "no column 'prize' .*did you mean 'price'"),
        (SHOP, Columns(lists=("color",)), "did you mean 'colour'"),
        (SHOP, Columns(numbers=("price",), lists=("price",)), "expected column 'price' in numbers or in lists, got"),
        (SHOP, Columns(numbers=("colour",)), "expected numbers in column 'colour', got only others, such as 'red'"),
        (SHOP.replace("validation", "galerie"), Columns(), "unknown split 'galerie'"),
        ("id,image\n1,1.jpg,red\n", Columns(), "Expected 2 columns, got 3"),
    ],
)
def test_a_table_that_does_not_fit_is_one_clear_line(tmp_path, text, columns, message):
    with pytest.raises(UserError, match=message) as caught:
        open_table(write(tmp_path, text), columns)
    assert "\n" not in str(caught.value)


def test_corrupt_and_ambiguous_files(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no parquet at all")
    with pytest.raises(UserError, match=r"cannot read table .*bad.parquet"):
        open_table(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes("image,colour\n1.jpg,fuchsia-rosé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"csv: line 2 is not UTF-8, near '1.jpg,fuchsia-rosé'; save it as UTF-8$"):
        open_table(tmp_path / "latin.csv")
    with pytest.raises(UserError, match=r"several tables .*bad.parquet, latin.csv"):
        open_table(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_table_that_nobody_may_read_is_named(tmp_path, monkeypatch, name):
    def closed(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    path = write(tmp_path, SHOP, name)
    monkeypatch.setattr(table, "open", closed, raising=False)  # root may read anything
    for read in (column_names, open_table):
        with pytest.raises(UserError, match=rf"{name}: no permission; expected a file that you may read$"):
            read(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_header_of_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("image,größe\n1.jpg,weiß\n".encode(encoding))
    for read in (column_names, open_table):
        with pytest.raises(UserError, match=r"t.csv: line 1 is not UTF-8, near .*; save it as UTF-8$") as caught:
            read(tmp_path / "t.csv")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("image;a;;\n1.jpg;x;;\n2.jpg;y;;\n", ["a"]),
        ("image,a, ,\n1.jpg,x, ,\n", ["a"]),
        ("image,,a\n1.jpg,z,x\n", ["", "a"]),  # it has a value
    ],
)
def test_columns_without_a_name_and_a_value_are_none(tmp_path, text, attributes):
    assert list(open_table(write(tmp_path, text))[0]["attributes"]) == attributes


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["shop.csv", "shop.tsv"])
def test_the_header_tells_the_separator(tmp_path, mark, name):
    rows = [["\ufeffid", '"size, in cm; or letter"', "image"], ["01", "M", "1.jpg"], ["02", '"9,5; or so"', "2.jpg"]]
    catalogue = open_table(write(tmp_path, "".join(mark.join(row) + "\r\n" for row in rows), name))
    assert catalogue["id"][:] == ["01", "02"]
    assert [row["size, in cm; or letter"] for row in catalogue["attributes"]] == ["M", "9,5; or so"]


@pytest.mark.parametrize(
    ("header", "suffix", "mark"),
    [
        (b"image", ".csv", ","),
        (b"image", ".TSV", "\t"),
        (b"a;b,c", ".csv", ","),
        (b"id\tsize (EU, UK, US)", ".tsv", "\t"),
        (b"id\tsize (EU, UK, US)", ".csv", ","),
        (b'"a\tb",c,d', ".tsv", ","),
        (b"a;b;c,d", ".csv", ";"),
        (b'"a,b,c";d', ".csv", ";"),
        (b"", ".csv", ","),
    ],
)
def test_separators(header, suffix, mark):
    assert separator(header, suffix) == mark


@pytest.mark.parametrize(("pair", "message"), [("sku", "NAME=COLUMN"), ("ids=sku", "did you mean 'id'")])
def test_bad_column_pairs(pair, message):
    with pytest.raises(UserError, match=message):
        columns_from_pairs([pair])


@given(st.lists(st.sampled_from(["red", "blue", "", "12", "True"])))
def test_an_attribute_has_a_value_that_is_no_number_or_flag(values):
    assert is_attribute(pa.chunked_array([values], pa.string())) == bool({"red", "blue"} & set(values))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["train", "val", "test", "", "dev"])), min_size=1))
def test_given_splits_are_kept_and_others_follow_their_product(rows):
    columns = {"id": [str(n) for n in range(len(rows))], "image": [""] * len(rows)}
    catalogue = assemble(columns | {"item": [i for i, _ in rows], "split": [s for _, s in rows]}, {})
    for (item, given_), split in zip(rows, catalogue["split"], strict=True):
        others = {split_name(s) for i, s in rows if i == item and s}
        assert split == split_name(given_) if given_ else split in (others or {split_of(item)})
