"""Which code a stage runs, as a file: the hash of every project module that the stage can reach, one manifest a stage module.

A study has a hundred cells of the same few stages. Were each to list its modules as `deps`, `dvc.lock` would hold their hashes
a hundred times, and DVC rewrites that file whole at every commit. So one stage of the study depends on the code and writes
the manifests, and the cells depend on theirs: an edit changes exactly the manifests of the stages whose numbers it can change.

    python -m tasks.runtime.manifest --out FOLDER MODULE...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.runtime.checkpoint import sha256
from tasks.runtime.imports import project_modules
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish
from tasks.runtime.stage import exit_code

SUFFIX = ".json"


def code_of(module: str, root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of `root` that can change the numbers of the stage `module`, by its path there.

    Raises UserError when there is no such module.
    """
    files = project_modules(module, root)
    if not files:
        raise UserError(f"no module {module} in {root}, so its code has no manifest; correct the command in dvc.yaml")
    return {str(path.relative_to(root)): sha256(path) for path in files}


def render(code: Mapping[str, str]) -> str:
    """Return the text of a manifest."""
    return json.dumps(code, indent=2) + "\n"


def read(text: str) -> dict[str, str]:
    """Return what `render` wrote."""
    code: dict[str, str] = json.loads(text)
    return code


def manifests(arguments: Sequence[str]) -> dict[Path, str]:
    """Return the module of every manifest that a command with these arguments writes, by its path."""
    parser = argparse.ArgumentParser(prog="python -m tasks.runtime.manifest", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    given = parser.parse_args(arguments)
    return {given.out / f"{module}{SUFFIX}": module for module in given.modules}


def write(wanted: Mapping[Path, str]) -> None:
    """Write the manifests of modules, for the code in the current folder."""
    for out, module in wanted.items():
        with publish(out) as draft:
            draft.write_text(render(code_of(module, Path.cwd())), encoding="utf-8")


if __name__ == "__main__":
    wanted = manifests(sys.argv[1:])
    sys.exit(exit_code(lambda: write(wanted), "manifest"))
