"""Every section of the params is checked against its stage's class before anything starts."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.planning.graph import Graph
from flows.planning.overlay import origin
from flows.planning.studies import read_by_studies
from flows.redact import redacted
from tasks.runtime.params import PARAMS_FILE, StageParams, UserError, check_section, overridden, params_of


def check_sections(
    graph: Graph,
    root: Path,
    params: Mapping[str, Any],
    targets: Iterable[str],
    profile: str | None = None,
    sets: Sequence[str] = (),
) -> None:
    """Check the params of the targets and of all they need. Raises one UserError that names every fault.

    A section that no stage reads is refused: it is a typo whose values would silently not be used. So is a secret, which would
    stand in dvc.lock, in Prefect's database and in the report.
    """
    faults = [*_unknown_sections(graph, root, params), *_unknown_template_keys(graph, params), *_secrets(params)]
    for name in graph.order(targets):
        try:
            _check_stage(graph, root, params, name, profile, sets)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _check_stage(
    graph: Graph, root: Path, params: Mapping[str, Any], name: str, profile: str | None, sets: Sequence[str]
) -> None:
    stage = graph.stages[name]
    if stage.module is None:
        return
    for module, given in ((stage.module, stage.sets), *stage.further):
        params_type = _params_of(module)
        if params_type.section not in stage.param_keys:
            raise UserError(
                f"dvc.yaml: stage '{name}' reads section '{params_type.section}' but its `params` lists only "
                f"{list(stage.param_keys)}; DVC would not see a change there"
            )
        check_section(params_type, overridden(params_type, params, given), origin(root, params_type.section, profile, sets))


def _params_of(module: str) -> type[StageParams]:
    """Return the params class of a stage module; a module that breaks when imported is the user's to mend, with its line."""
    try:
        return params_of(module)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  any exception at all may come out of code that is being edited
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}; {module} cannot be imported") from None


def _unknown_sections(graph: Graph, root: Path, params: Mapping[str, Any]) -> list[str]:
    used = {key.split(".")[0] for stage in graph.stages.values() for key in stage.param_keys} | graph.templated
    if set(params) - used:
        used |= read_by_studies(root)
    faults = []
    for section in params:
        if section not in used:
            close = difflib.get_close_matches(str(section), used, n=1)
            meant = f"did you mean '{close[0]}'?" if close else "remove it, or add its stage to dvc.yaml"
            faults.append(f"{PARAMS_FILE}: no stage reads section '{section}'; {meant}")
    return faults


def _secrets(values: Any, key: str = "") -> list[str]:
    """Name every param that holds a secret of the environment, or an address with a password in it; never say the value."""
    if isinstance(values, Mapping):
        return [fault for name, value in values.items() for fault in _secrets(value, f"{key}.{name}" if key else str(name))]
    if isinstance(values, list | tuple):
        return [fault for number, value in enumerate(values) for fault in _secrets(value, f"{key}.{number}")]
    if not isinstance(values, str) or redacted(values) == values:
        return []
    return [f"{PARAMS_FILE}: {key}: holds a secret; params are written down, so give it by the environment (SECURITY.md)"]


def _unknown_template_keys(graph: Graph, params: Mapping[str, Any]) -> list[str]:
    """Check the keys of sections that only templates read at present: their stage, which would check them, is not in use."""
    read = {stage.section for stage in graph.stages.values()}
    faults: list[str] = []
    for section, module in graph.template_modules.items():
        known = _params_of(module).model_fields
        body = params.get(section)
        if section not in read and isinstance(body, Mapping):
            faults.extend(
                f"{PARAMS_FILE}: {section}.{key}: unknown key; known are {', '.join(known)}" for key in body if key not in known
            )
    return faults
