"""A problem that pydantic found, in our words."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fclip.validation import in_words


class Shop(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("x", min_length=1, max_length=3)
    items: list[int] = Field([], max_length=2)
    share: float = Field(0.5, ge=0, lt=1, allow_inf_nan=False)
    kind: Literal["own", "other"] = "own"

    @field_validator("name")
    @classmethod
    def _lower(cls, name: str) -> str:
        if name.isupper():
            raise ValueError("Expected small letters, got large ones")
        return name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"nam": "y"}', "unknown key 'nam'; did you mean 'name'? known: items, kind, name, share"),
        ('{"name": 5}', "name: expected a string, got THIS"),
        ('{"name": ""}', "name: expected at least 1 character, got THIS"),
        ('{"name": "long"}', "name: expected at most 3 characters, got THIS"),
        ('{"name": "A"}', "name: expected small letters, got large ones"),
        ('{"items": 1}', 'items: expected a list, e.g. ["a", "b"], got THIS'),
        ('{"items": [1, 2, 3]}', "items: expected at most 2 values, got THIS"),
        ('{"items": ["a"]}', "items.0: expected a whole number, got THIS"),
        ('{"share": 1}', "share: expected less than 1, got THIS"),
        ('{"share": -1}', "share: expected at least 0, got THIS"),
        ('{"share": NaN}', "share: expected a finite number, got THIS"),
        ('{"kind": "owm"}', "kind: expected 'own' or 'other', got THIS"),
        ("[]", "expected keys and values, got THIS"),
        (
            '{"name": }',
            "expected JSON, got a mistake at line 1 column 10 (expected value); mind quotes, commas and brackets",
        ),
    ],
)
def test_a_problem_says_where_what_was_expected_and_what_came(text, said) -> None:
    with pytest.raises(ValidationError) as caught:
        Shop.model_validate_json(text)
    problem = caught.value.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    assert in_words(place, problem, Shop.model_fields, "THIS") == said
