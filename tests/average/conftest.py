"""Model folders made of raw tensors, in milliseconds and without a model class."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

TOKENIZER = {"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1}}, "added_tokens": [{"id": 0, "content": "<pad>"}]}


def tensors(seed: int = 0, dtype: torch.dtype = torch.bfloat16, layers: int = 3, width: int = 40) -> dict[str, torch.Tensor]:
    """Random tensors named like a Llama's, with one integer buffer."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    found = {
        "model.embed_tokens.weight": normal(7, width),
        "model.norm.weight": normal(width),
        "lm_head.weight": normal(7, width),
    }
    for layer in range(layers):
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = normal(width, width)
        found[f"model.layers.{layer}.input_layernorm.weight"] = normal(width)
    return found | {"model.steps": torch.arange(5)}


def write_folder(folder: Path, content: Mapping[str, torch.Tensor], shards: int = 1, **config: object) -> Path:
    """Write a model folder: the tensors, dealt over `shards` files, a config and a tokenizer."""
    folder.mkdir(parents=True)
    names = [f"model-{k + 1:05d}-of-{shards:05d}.safetensors" for k in range(shards)] if shards > 1 else ["model.safetensors"]
    place = {name: names[number % shards] for number, name in enumerate(content)}
    for file in names:
        save_file({name: content[name] for name in content if place[name] == file}, folder / file, metadata={"format": "pt"})
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 40, **config}))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two model folders of one shape with different bfloat16 weights."""
    return write_folder(tmp_path / "pre", tensors(0)), write_folder(tmp_path / "post", tensors(1))
