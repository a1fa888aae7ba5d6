"""The source of Atlas's theorems, `data/atlas/theorems.yaml`, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.runtime.params import UserError, read_yaml

Letters = Annotated[str, Field(pattern=r"^[a-gi-z]{3,}$")]
"""Letters without blanks; h is kept for hypotheses."""


class FamilySource(BaseModel):
    """What the source says of one family."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    levels: list[Annotated[int, Field(ge=1, le=9)]] = Field(min_length=1)
    """Grades of difficulty; what they count is the family's."""
    heldout: bool = False
    """Whether nothing of it is learned from."""


class Theorems(BaseModel):
    """The whole source."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    alphabets: list[Letters] = Field(min_length=1)
    """Letters of variables, taken in this order; the first must do for every family."""
    largest: int = Field(ge=9, le=99)
    """Largest number that is written, results aside."""
    families: dict[str, FamilySource] = Field(min_length=1)


def load_theorems(folder: Path) -> Theorems:
    """Read the source. Raises UserError naming the file and what is wrong in it."""
    path = folder / "theorems.yaml"
    try:
        return Theorems.model_validate(read_yaml(path))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(f"{path}: {faults}") from None
