"""Typed parameters: a wrong key or value is refused before anything is loaded, naming file, section and key.

Every stage module defines `class Params(StageParams)` with a `section`. This module imports no torch, and neither may a
stage module at its top, so that `temper plan` can check every section in milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

PARAMS_FILE = Path("params.yaml")


class UserError(ValueError):
    """A mistake in what the user gave: final, exit code 2, never retried. The message names the place and the remedy."""


class StageParams(BaseModel):
    """Base of every stage's params: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
    section: ClassVar[str]


class TrainingParams(StageParams):
    """What every gradient-training stage needs to know. All of it is part of the stage's identity."""

    seed: int = Field(0, ge=0)
    """Seed of initialisation, data order and sampling."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads of the stage: the order of fp32 sums depends on it, so it is fixed rather than taken from the machine."""
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    """Peak learning rate of AdamW."""
    batch_size: int = Field(16, ge=1)
    """Global batch in sequences per optimizer step; how it is split over devices is worked out at launch."""
    max_length: int = Field(128, ge=8)
    """Context of one training sequence, in tokens."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader. Raises UserError with file and line when it is not one."""
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the root of a Temper checkout") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: must hold a mapping of sections, not {type(values).__name__}")
    return dict(values)


def check_section(params_type: type[StageParams], values: Mapping[str, Any], source: str) -> StageParams:
    """Validate one section of `values`. Raises UserError that names `source`, the section and every wrong key."""
    section = params_type.section
    body = values.get(section)
    if body is None:
        raise UserError(f"{source}: section '{section}' is missing")
    if not isinstance(body, Mapping):
        raise UserError(f"{source}: section '{section}' must be a mapping, not {type(body).__name__}")
    try:
        return params_type.model_validate(dict(body))
    except ValidationError as error:
        faults = "; ".join(_fault(params_type, section, fault) for fault in error.errors())
        raise UserError(f"{source}: {faults}") from None


def overridden(params_type: type[StageParams], values: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Return `values` with every `key=value` of `sets` (the value as YAML) in the section of `params_type`.

    So one section serves all cells of a matrix in dvc.yaml. Raises UserError for an item that is not of this form.
    """
    body = dict(values.get(params_type.section) or {})
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"--set {item}: must be KEY=VALUE, a key of section '{params_type.section}'")
        body[key] = YAML(typ="safe", pure=True).load(text)
    return {**values, params_type.section: body} if sets else dict(values)


def label(section: str, cell: str | None) -> str:
    """Return the name of a run of a stage: its section, and for a cell of a matrix which one it is (`mitigated@l2-0.1-0`)."""
    return f"{section}@{cell}" if cell else section


def load_params(params_type: type[StageParams], path: Path = PARAMS_FILE) -> StageParams:
    """Read and validate the section that `params_type` stands for."""
    return check_section(params_type, read_yaml(path), str(path))


def params_of(module: str) -> type[StageParams]:
    """Return the `Params` class of the stage module named `module` (for example `tasks.train.sft`)."""
    try:
        params_type = importlib.import_module(module).Params
    except (ImportError, AttributeError) as error:
        raise UserError(f"{module}: not a stage module: {error}") from None
    assert issubclass(params_type, StageParams)
    return params_type


def _fault(params_type: type[StageParams], section: str, fault: Any) -> str:
    """Say one validation fault as `section.key: what is wrong (remedy)`."""
    key = ".".join([section, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; known are {', '.join(params_type.model_fields)}"
    return f"{key}: {fault['msg']}, got {fault['input']!r}"
