"""Studies: ablations and sweeps beside the pipeline, each a folder of flows/studies with a dvc.yaml of its own.

`temper run tax` or `temper run tax-study` means all stages of flows/studies/tax, with what they need of the pipeline; several
studies may be named, and their stages then run side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tasks.runtime.params import UserError, read_yaml

STUDIES = Path("flows/studies")
"""Each folder here is a study: a dvc.yaml of its own, whose stages read what those of the pipeline make."""
SUFFIX = "-study"


def study_names(root: Path) -> list[str]:
    """Return the names of the studies of a checkout."""
    return sorted(place.parent.name for place in (root / STUDIES).glob("*/dvc.yaml"))


def asked(root: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the studies that are among `names`, and the names of stages that are left.

    Raises UserError for `NAME-study` without such a study.
    """
    known = study_names(root)
    studies, stages = [], []
    for name in names:
        study = name.removesuffix(SUFFIX)
        if study in known:
            studies.append(study)
        elif name.endswith(SUFFIX):
            raise UserError(f"no study '{study}' in {STUDIES}; there are {', '.join(known) or 'none'}")
        else:
            stages.append(name)
    return list(dict.fromkeys(studies)), stages


def read_by_studies(root: Path) -> set[str]:
    """Return the sections of params.yaml that any study reads, in its stages or its templates."""
    found: set[str] = set()
    for name in study_names(root):
        place = root / STUDIES / name / "dvc.yaml"
        found |= set(re.findall(r"\$\{\s*(\w+)", place.read_text(encoding="utf-8"))) - {"item", "key"}
        for body in read_yaml(place).get("stages", {}).values():
            stated = body.get("do", body).get("params", [])
            found |= {key.split(".")[0] for key in stated if isinstance(key, str)}
    return found
