"""Which of another catalogue's values is which of ours: the YAML file of `python -m eval cross-domain --mapping`.

    articleType:            # our attribute group
      from: label           # their group; the same name when left out
      values:
        T-Shirt: Tshirts    # theirs: ours

>>> rules = read_mapping("classes.yaml")
>>> check_mapping(rules, ours, theirs, "classes.yaml")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Rule:
    """How one of their groups becomes one of ours."""

    theirs: str
    values: dict[str, str]  # theirs → ours

    @property
    def classes(self) -> list[str]:
        """Our values that it names."""
        return sorted(set(self.values.values()))


def read_mapping(path: str | Path) -> dict[str, Rule]:
    """Our group → rule.

    Raises:
        UserError: no such file, no YAML, or of another layout.
    """
    import yaml

    try:
        known = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the mapping {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    rules = {}
    for group, told in (known if isinstance(known, dict) else {"": {}}).items():
        told = told if isinstance(told, dict) else {}
        values = told.get("values")
        texts = [*values, *values.values()] if isinstance(values, dict) else []
        if not texts or not all(isinstance(text, str) for text in texts) or told.keys() - {"from", "values"}:
            raise UserError(f"{path}: expected 'group: {{from: their group, values: {{theirs: ours}}}}' with texts "
                            f"(quote yes, no and numbers), got {str(known)[:60]!r}")  # fmt: skip
        rules[str(group)] = Rule(str(told.get("from") or group), dict(values or {}))
    return rules


def check_mapping(rules: Mapping[str, Rule], whole: Dataset, theirs: Dataset, file: str) -> None:
    """Whether both catalogues know what a mapping names.

    Raises:
        UserError: a group or value is in neither, or was never seen in training.
    """
    from fclip.catalogue.schema import check_groups

    check_groups(whole, list(rules))
    check_groups(theirs, [rule.theirs for rule in rules.values()])
    splits, attributes = whole["split"][:], whole["attributes"][:]
    for group, rule in rules.items():
        everywhere = {only_value(cell[group]) for cell in attributes}
        trained = {only_value(cell[group]) for cell, split in zip(attributes, splits, strict=True) if split == "train"}
        for value in rule.classes:
            if value not in everywhere:
                raise UserError(f"{file}: no {group} {value!r} in the catalogue; {nearest(value, everywhere - {None})}")
            if trained and value not in trained:
                raise UserError(f"{file}: {group} {value!r} is never seen in training; leave its line out")


def only_value(value: Any) -> str | None:
    """A value; of a list the only one."""
    return value if isinstance(value, str) else value[0] if value and len(value) == 1 else None


def unmapped(pictures: Dataset, rule: Rule) -> dict[str, int]:
    """Their values that the mapping does not name, and how many pictures have them."""
    found = Counter(only_value(cell[rule.theirs]) or "(none or several)" for cell in pictures["attributes"][:])
    return {value: n for value, n in found.most_common() if value not in rule.values}


def commonest(whole: Dataset, rule: Rule) -> int | None:
    """The commonest of our classes in the train split; None without one."""
    rows = zip(whole["attributes"][:], whole["split"][:], strict=True)
    seen = Counter(only_value(cell[rule.theirs]) for cell, split in rows if split == "train")
    return max(range(len(rule.classes)), key=lambda c: seen[rule.classes[c]]) if seen else None
