"""Numbers as people write them: a whole column is read in one way, and what is no number is unknown."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fclip.catalogue.numbers import decimal_sign, plain, read_numbers, said_of_numbers
from fclip.store.filters import NUMBER

AS_WRITTEN = [  # a column, and what it says; None: no number
    # both signs in a value: the last is the decimal sign of the column
    (["1.299,90", "899", "9,90"], ["1299.9", "899", "9.9"]),
    (["1,299.90", "899", "2,450"], ["1299.9", "899", "2450"]),
    (["1.299,90", "12.5"], ["1299.9", None]),  # this point parts no thousands
    (["1,299.90", "1.299,90", "9.999,90"], [None, "1299.9", "9999.9"]),  # most of them
    # one sign: three digits after it wherever it is
    (["1.299", "12.500", "899"], ["1299", "12500", "899"]),
    (["1,299", "12,500", "899"], ["1299", "12500", "899"]),
    (["1.299", "12.5"], ["1.299", "12.5"]),
    (["0.125", "1.250"], ["0.125", "1.25"]),
    (["0,125", "1,250"], ["0.125", "1.25"]),
    (["1234.500", "1.250"], ["1234.5", "1.25"]),  # no groups of three
    (["9,90", "12"], ["9.9", "12"]),
    (["4711,1"], ["4711.1"]),
    # twice in a value
    (["1.299.900", "1.299"], ["1299900", "1299"]),
    (["1.299.900", "12.5"], ["1299900", None]),
    (["1,00,000", "99,999"], ["100000", "99999"]),  # as in India
    # each sign in other values
    (["1.299", "9,90"], ["1299", "9.9"]),
    (["1.299", "1,299"], ["1299", "1299"]),
    (["9.90", "8.90", "7,90"], ["9.9", "8.9", None]),
    # around the number
    (["1.299,90 €", "€ 9,90", "9,90€"], ["1299.9", "9.9", "9.9"]),
    (["EUR 9.90", "9.90 EUR", "US$9.90", "£9.90", "Rs. 499", "499 kr."], ["9.9", "9.9", "9.9", "9.9", "499", "499"]),
    (["9,-", "12.–", "15,50"], ["9", "12", "15.5"]),
    (["20 %", "5.5%"], ["20", "5.5"]),
    (["from 5 EUR", "ca. 7"], ["5", "7"]),
    # inside it
    (["1 299,90", "1\u00a0299,90", "1\u202f299,90"], ["1299.9"] * 3),
    (["CHF 1'299.90", "1’299.90"], ["1299.9"] * 2),
    (["36 38", "5€90", "1 2990"], [None] * 3),
    # signs, zeros, length
    (["-5", "−5", "- 5", "$-5", "-$5", "+5", "-0"], ["-5", "-5", "-5", "-5", "-5", "5", "0"]),
    (["007", ".5", "-.5", "0.50", "10"], ["7", "0.5", "-0.5", "0.5", "10"]),
    (["0.1234567890123456", "123456789012345", "1234567890123456"], ["0.12345678901235", "123456789012345", None]),
    # no numbers, and they have no say
    (["n/a", "on request", "9,90", "-", "€"], [None, None, "9.9", None, None]),
    (["12.05.2024", "2024-05-12", "9.90", "8.125"], [None, None, "9.9", "8.125"]),
    (["36-38", "38/40", "XL-40", "W32L34", "1e3", "1 of 2"], [None] * 6),
    (["", "  ", None, "5"], [None, None, None, "5"]),
]


@pytest.mark.parametrize(("written", "says"), AS_WRITTEN)
def test_a_column_of_text_is_read_in_one_way(written, says) -> None:
    read = read_numbers(pa.array(written, pa.string()))
    assert read.values.to_pylist() == says
    assert read.unread == [
        text for text, number in zip(written, says, strict=True) if (text or "").strip() and not number
    ]


@pytest.mark.parametrize(
    ("texts", "sign"),
    [([], "."), (["5"], "."), (["1,299"], "."), (["1.299"], ","), (["9,90"], ","), (["1.299", "1,299"], "")],
)
def test_the_decimal_sign_of_a_column(texts, sign) -> None:
    assert decimal_sign(texts) == sign


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([9.125, 1e-5, 12.0, 1e16, float("nan"), None]), ["9.125", "0.00001", "12", None, None, None]),
        (pa.array([9.9], pa.float32()), ["9.9"]),
        (pa.array([0.1 + 0.2]), ["0.3"]),
        (pa.array([1299, None, -5]), ["1299", None, "-5"]),
        (pa.array([Decimal("9.90")]), ["9.9"]),
        (pa.array([None, None]), [None, None]),
        (pa.array(["9,90", "n/a", "9,90"]).dictionary_encode(), ["9.9", None, "9.9"]),
        (pa.chunked_array([["1.299,90"], ["9,90"]]), ["1299.9", "9.9"]),
    ],
)
def test_columns_of_numbers_stay_as_they_are_without_exponents(column, says) -> None:
    assert read_numbers(column).values.to_pylist() == says


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["899", "2.450,00", "9.9.9"], "price: numbers from 899 to 2450; 1 of 3 are none, e.g. '9.9.9'"),
        (["899", "", "1299,9"], "price: numbers from 899 to 1299.9"),
        (["n/a"] * 2 + ["5"] * 1298, "price: numbers from 5 to 5; 2 of 1,300 are none, e.g. 'n/a'"),
        (["", ""], "price: no numbers"),
        ([9.5, float("nan"), None, 1e16], "price: numbers from 9.5 to 9.5; 1 of 2 are none, e.g. '1e+16'"),
    ],
)
def test_a_wrong_reading_is_seen(written, said) -> None:
    assert said_of_numbers("price", read_numbers(pa.array(written))) == said


@given(st.lists(st.text(alphabet="0123456789.,-' €EUR")))
def test_whatever_is_read_is_a_number_to_filter_by(texts) -> None:
    read = read_numbers(pa.array(texts, pa.string()))
    assert all(NUMBER.fullmatch(number) for number in read.values.drop_null().to_pylist())
    assert len(read.values) == len(texts)


@given(st.lists(st.decimals(-1_000_000, 1_000_000, places=2), min_size=1), st.sampled_from([",.", ".,", " ,", "'."]))
def test_what_a_shop_writes_is_what_is_read(prices, signs) -> None:
    thousands, point = signs
    text = [f"{price:,}".translate(str.maketrans(",.", thousands + point)) for price in prices]
    assert read_numbers(pa.array(text)).values.to_pylist() == [plain(price) for price in prices]


@pytest.mark.parametrize("part", ["a", "a.", "1.234", "1 ", " ", "-", "9,", "€", "1'234,"])
def test_a_long_text_is_read_at_once(part) -> None:
    assert read_numbers(pa.array([part * 20_000 + "!"])).values.to_pylist() == [None]
