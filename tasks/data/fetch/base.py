"""Brings in a pretrained model: a local Hugging Face folder, or a hub name, becomes `data/fetched/base`.

From here on the model is an out like any other: hashed, cached, and the same for every later stage. Only safetensors,
configuration and tokenizer files are taken; a pickle is refused before it is opened and remote code is never run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

from tasks.runtime.models import HUB_NAME, check_folder
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import Out, Run, run_stage

FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "*.model",
         "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")  # fmt: skip


class Params(StageParams):
    """Where the base model comes from."""

    section: ClassVar[str] = "base"
    model: str = "data/models/pretrain"
    """Folder that `sft` starts from; names a dependency in dvc.yaml."""
    scores: str = "data/scores/pretrain.json"
    """Scores of the stage that made `model`; names a dependency in dvc.yaml."""
    path: str | None = None
    """A Hugging Face folder, or a hub name such as org/name."""
    revision: str = "main"
    """Branch, tag or commit of a hub name."""


def main(params: Params, run: Run, *, out: Out, scores: Out) -> None:
    """Copy the model into `out` after checking it, and write what it is to `scores`."""
    if params.path is None:
        raise UserError("params.yaml: base.path is not set; give --set base.path=FOLDER or base.path=org/name")
    folder = locate(params.path, params.revision)
    check_folder(folder)
    files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
    with publish(out) as draft:
        draft.mkdir()
        for path in files:
            shutil.copyfile(path, draft / path.name)
    publish_json(scores, describe(out))


def locate(path: str, revision: str) -> Path:
    """Return a local folder for a path or a hub name. Raises UserError, within seconds, when there is neither."""
    if Path(path).is_dir():
        return Path(path)
    if not HUB_NAME.match(path) or Path(path).exists():
        raise UserError(f"base.path: {path} is neither a folder nor a hub name of the form org/name")
    return download(path, revision)


def download(name: str, revision: str) -> Path:
    """Fetch a model snapshot from the hub. Raises UserError with the way round when the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision, timeout=5).sha
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(FILES)))
    except Exception as error:  # noqa: BLE001  its network errors change their class from release to release
        raise UserError(
            f"base.path: {name} is not a local folder, and the hub did not give it ({type(error).__name__}); check the name "
            f"and the network, or run `hf download {name} --local-dir DIR` where there is one and give --set base.path=DIR"
        ) from None


def describe(folder: Path) -> dict[str, int | str]:
    """Return what the model is: architecture, parameters and bytes of weights, read from headers alone."""
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parameters = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  safe_open is no mapping
                size = 1
                for extent in tensors.get_slice(name).get_shape():
                    size *= extent
                parameters += size
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {"architecture": config.get("architectures", ["unknown"])[0], "parameters": parameters, "weight_bytes": weights}


if __name__ == "__main__":
    run_stage(main)
