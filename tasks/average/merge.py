"""Average two model folders tensor by tensor, straight from disk to disk.

Both inputs are memory-mapped and every output is written block by block, so the memory in use does not grow with the model,
and several recipes (a sweep of `w_pre`) cost one reading. PyTorch is not imported. The output has the files, the tensor order and
the headers of `pre`, so the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tasks.average.arithmetic import STORED, Squares, blend
from tasks.average.recipe import Recipe
from tasks.average.weights import INDEX, Shard, Tensor, Weights
from tasks.runtime.checkpoint import sha256
from tasks.runtime.models import write_card
from tasks.runtime.params import UserError
from tasks.runtime.publish import sync

SPAN = 1 << 22
"""Elements that one thread averages at a time; squares are added up span by span in order, whatever the number of threads."""
BESIDE_WEIGHTS = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"]
BESIDE_WEIGHTS += ["vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template*"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model")
BOOKKEEPING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
BOOKKEEPING |= {"bos_token_id", "eos_token_id", "pad_token_id"}
PROVENANCE = "averaging.json"


@dataclass(frozen=True)
class _Span:
    """A run of elements of one tensor."""

    tensor: Tensor
    first: int
    stop: int


def merge(
    pre: Weights, post: Weights, outs: Mapping[Path, Recipe], count: Callable[[int], None] = lambda size: None
) -> dict[str, Squares]:
    """Average two models by every recipe and write a model folder, weights and all that belongs to them, for each.

    `count` is told the bytes done. Returns the sums of squares of every averaged tensor. Raises UserError when the models do not
    have the same tensors, tokenizer and architecture, when a buffer differs, or when a weight is not finite.
    """
    check_pair(pre, post)
    for out in outs:
        out.mkdir(parents=True, exist_ok=True)
        copy_beside_weights(pre.folder, post.folder, out)
    squares: dict[str, Squares] = {}
    flushed: list[Future[None]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, ThreadPoolExecutor(1) as disk:
        for shard in pre.shards:
            for span, part in _merge_shard(pool, shard, pre, post, outs):
                squares[span.tensor.name] = squares.get(span.tensor.name, Squares()) + part
                count((span.stop - span.first) * span.tensor.size // max(1, span.tensor.length))
            flushed += [disk.submit(sync, out / shard.path.name) for out in outs]  # while the next shard is computed
    for done in flushed:
        done.result()
    for name, found in squares.items():
        if not isfinite(found.pre + found.difference):
            raise UserError(f"tensor {name} holds NaN or infinity in {pre.folder} or {post.folder}; its training diverged")
    return {name: found for name, found in squares.items() if pre[name].floating}


def _merge_shard(
    pool: ThreadPoolExecutor, shard: Shard, pre: Weights, post: Weights, outs: Mapping[Path, Recipe]
) -> Iterator[tuple[_Span, Squares]]:
    """Write one shard of every output; yield each span when it is done, in order."""
    with ExitStack() as stack:
        files = [stack.enter_context(_create(out / shard.path.name, shard)) for out in outs]

        def work(span: _Span) -> Squares:
            return _merge_span(span, pre, post, list(outs.values()), files)

        spans = [span for tensor in shard.tensors for span in _spans(tensor)]
        yield from zip(spans, pool.map(work, spans), strict=True)


def _merge_span(span: _Span, pre: Weights, post: Weights, recipes: Sequence[Recipe], files: Sequence[int]) -> Squares:
    """Average one span by every recipe, or copy it when it belongs to a buffer."""
    tensor = span.tensor
    if not tensor.floating:
        for file in files:
            _write(file, pre.raw(tensor.name), tensor.start)
        return Squares()
    width = STORED[tensor.dtype].itemsize
    near, far = (side.raw(tensor.name)[span.first * width : span.stop * width] for side in (pre, post))

    def write(k: int, first: int, values: NDArray) -> None:
        _write(files[k], values.data.cast("B"), tensor.start + (span.first + first) * width)

    return blend(near, far, tensor.dtype, [recipe.of(tensor.name) for recipe in recipes], write)


def _spans(tensor: Tensor) -> Iterator[_Span]:
    """Cut a tensor into spans; a buffer is one span, an empty tensor none."""
    step = SPAN if tensor.floating else max(1, tensor.length)
    for first in range(0, tensor.length, step):
        yield _Span(tensor, first, min(first + step, tensor.length))


@contextmanager
def _create(path: Path, like: Shard) -> Iterator[int]:
    """Open a new file with the header and the size of `like`; a full disk shows here, before anything is computed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, like.bytes)
        _write(descriptor, memoryview(like.header), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


def check_pair(pre: Weights, post: Weights) -> None:
    """Raise UserError, naming tensor and shapes, unless both models have equal tensors, buffers, tokenizers and configs."""
    for one, other in ((pre, post), (post, pre)):
        if alone := sorted(one.place.keys() - other.place.keys()):
            raise UserError(f"tensor {alone[0]} is in {one.folder} but not in {other.folder} ({len(alone)} such tensors)")
    for mine in pre.tensors:
        other_one = post[mine.name]
        if mine.shape != other_one.shape:
            raise UserError(
                f"tensor {mine.name} has shape {mine.shape} in {pre.folder} but {other_one.shape} in {post.folder}; "
                "only models of the same shape can be averaged"
            )
        if mine.dtype != other_one.dtype:
            raise UserError(
                f"tensor {mine.name} is {mine.dtype} in {pre.folder} but {other_one.dtype} in {post.folder}; "
                "save both models in one dtype"
            )
        if not mine.floating and pre.raw(mine.name) != post.raw(mine.name):
            raise UserError(f"buffer {mine.name} ({mine.dtype}) differs between {pre.folder} and {post.folder}")
    _check_config(pre.folder, post.folder)
    _check_tokenizer(pre.folder, post.folder)


def _check_config(pre: Path, post: Path) -> None:
    """Raise UserError when a field of config.json that shapes the computation differs."""
    one, other = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (pre, post))
    differing = [key for key in sorted((one.keys() | other.keys()) - BOOKKEEPING) if one.get(key) != other.get(key)]
    if differing and (_understood(pre) or one) != (_understood(post) or other):
        key = differing[0]
        raise UserError(
            f"config.json: {key} is {one.get(key)!r} in {pre} but {other.get(key)!r} in {post}; "
            "only models of the same architecture can be averaged"
        )


def _understood(folder: Path) -> dict[str, Any] | None:
    """Return the config as the library reads it: one release writes what another leaves to the default, or names it otherwise.

    None for a config that the library cannot read.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        fields: dict[str, Any] = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    except (ValueError, StrictDataclassError):
        return None
    return {key: value for key, value in fields.items() if key not in BOOKKEEPING}


def _check_tokenizer(pre: Path, post: Path) -> None:
    """Raise UserError when the two tokenizers do not give the same ids."""
    for name in TOKENIZERS:
        one, other = ((folder / name).read_bytes() if (folder / name).is_file() else None for folder in (pre, post))
        if one == other:
            continue
        if one is None or other is None or name != "tokenizer.json" or _vocabulary(one) != _vocabulary(other):
            raise UserError(f"{name} differs between {pre} and {post}; only models with the same tokenizer can be averaged")


def _vocabulary(tokenizer: bytes) -> tuple[Any, Any]:
    """Return the part of tokenizer.json that decides ids: the model with its vocabulary, and the added tokens."""
    content = json.loads(tokenizer)
    return content["model"], [(token["id"], token["content"]) for token in content["added_tokens"]]


def copy_beside_weights(pre: Path, post: Path, out: Path) -> None:
    """Copy config, generation config, tokenizer and chat template of `post`, the model as it is used, and the index of `pre`."""
    for pattern in BESIDE_WEIGHTS:
        for path in sorted(post.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, out / path.name)
    if (pre / INDEX).is_file():
        shutil.copyfile(pre / INDEX, out / INDEX)


def hash_weights(weights: Weights) -> dict[str, str]:
    """Return the SHA-256 of every weights file by its name."""
    return {shard.path.name: sha256(shard.path) for shard in weights.shards}


def write_provenance(out: Path, recipe: Recipe, pre: Mapping[str, str], post: Mapping[str, str], stage: str = "average") -> None:
    """Write the model card and `averaging.json`: convention, ratios, boundaries, rest rule and SHA-256 of both inputs."""
    facts = {**recipe.describe(), "sha256": {"pre": dict(pre), "post": dict(post)}}
    (out / PROVENANCE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    parts = "<br>".join(f"layers {part.first} to {part.stop - 1}: {part.w_pre:g}" for part in recipe.parts)
    card: dict[str, Any] = {
        "stage": stage,
        "summary": "Weighted average of a model before RLHF (pre) and the same model after it (post), "
        "computed in float64 and rounded once.",
        "convention": recipe.describe()["convention"],
        "w_pre": f"{recipe.w_pre:g}",
        "w_pre of each part": parts,
        "rest (embeddings, final norm, output head)": f"{recipe.rest}: {recipe.of('rest'):g}",
    }
    for side, hashes in (("pre", pre), ("post", post)):
        card[f"SHA-256 of {side}"] = "<br>".join(f"`{name}` {digest}" for name, digest in sorted(hashes.items()))
    write_card(out, card)
