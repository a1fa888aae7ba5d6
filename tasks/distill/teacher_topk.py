"""One pass of the teacher over the training and validation rows: its k likeliest tokens at every learned position, in files.

FIRST calls this efficient knowledge selection: five tokens hold nearly all of a tuned teacher's probability, and a distribution
over the whole vocabulary is never kept for more than the rows of one forward pass. An interrupted pass goes on where it stopped,
at a batch it would have had anyway, so that its files are the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.distill.rows import TRAINING, VALIDATION, Rows, read_rows, tokenizer_digest
from tasks.distill.topk_file import Header, TopK, Writer
from tasks.runtime.models import check_folder, load_causal, load_tokenizer, on_device, set_determinism
from tasks.runtime.packing import collate, learned_logits
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedModel

    from tasks.runtime.progress import Progress


PORTION = 1 << 17
"""Logits sorted at once."""
LONG, DEEP = 4096, 16
"""From how many logits on a row is laid out in columns, and how deep these are."""


class Params(StageParams):
    """The teacher's pass over the data."""

    section: ClassVar[str] = "teacher-topk"
    k: int = Field(5, ge=1, le=1000)
    """Likeliest tokens kept at every position."""
    max_length: int = Field(128, ge=8)
    """Tokens of a packed row; the student's must be the same."""
    batch_size: int = Field(16, ge=1)
    """Rows of one forward pass, whose logits are in memory at once."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


def main(params: Params, run: Run, *, teacher: In, student: In, sets: In, out: Out, scores: Out) -> None:
    """Write `out`/sft.topk and `out`/valid.topk: what `teacher` thinks of `sets`, in the tokens of `student`."""
    for folder in (teacher, student):
        check_folder(folder)
    set_determinism(0, params.threads)
    tokenizer = load_tokenizer(student)
    digest = tokenizer_digest(tokenizer)
    if tokenizer_digest(load_tokenizer(teacher)) != digest:
        raise UserError(
            f"{teacher}: the teacher's tokenizer is not that of the student in {student}, so its token ids mean other things "
            "there; use models of one family"
        )
    data = {name: read_rows(tokenizer, sets / f"{name}.jsonl", params.max_length) for name in (TRAINING, VALIDATION)}
    model = on_device(load_causal(teacher)[0].float()).eval()
    most = model.config.get_text_config().max_position_embeddings
    if params.max_length > most:
        raise UserError(f"teacher-topk.max_length: {params.max_length} tokens, but the model in {teacher} takes {most}; lower it")
    whose = hashlib.sha256(json.dumps(run.inputs["teacher"], sort_keys=True).encode()).hexdigest()
    drafts = run.checkpoints.folder
    progress = run.progress(sum(rows.offsets[-1] for rows in data.values()), "positions")
    for name, rows in data.items():
        header = Header(
            positions=rows.offsets[-1],
            k=params.k,
            vocabulary=model.config.get_text_config().vocab_size,
            teacher=whose,
            tokenizer=digest,
            data=rows.digest,
        )
        write(model, rows, Writer(drafts / f"{name}.topk", header), params.batch_size, tokenizer.pad_token_id, progress)
    with publish(out) as draft:
        shutil.copytree(drafts, draft)
    found = {f"{name}_{key}": value for name in data for key, value in describe(out, name, data[name]).items()}
    publish_json(scores, {"vocabulary": model.config.get_text_config().vocab_size, **found})
    run.checkpoints.clear()


def write(model: PreTrainedModel, data: Rows, writer: Writer, batch_size: int, pad_id: int, progress: Progress) -> None:
    """Append what the teacher thinks at every learned position that the writer does not have yet; `progress` counts positions."""
    for start in range(0, len(data.rows), batch_size):
        rows = data.rows[start : start + batch_size]
        first, last = data.offsets[start], data.offsets[start + len(rows)]
        if last > writer.done:
            batch = {name: values.to(model.device) for name, values in collate(rows, pad_id).items()}
            ids_NK, probs_NK = top_k(model, batch, writer.header.k)
            had = max(0, writer.done - first)
            writer.append(ids_NK[had:].cpu().numpy(), probs_NK[had:].cpu().numpy())
        progress.advance(last - first)


def top_k(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and probabilities under the whole vocabulary, both [N, k], likeliest first, at a batch's learned positions.

    Raises UserError when the teacher gives numbers that are not finite.
    """
    import torch

    with torch.inference_mode():
        ids_NK, probs_NK = likeliest(learned_logits(model, batch), k)
    if not probs_NK.isfinite().all():
        raise UserError("the teacher's logits are not finite; its weights are damaged or its training diverged")
    return ids_NK, probs_NK


def likeliest(logits_NV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and probabilities, both [N, k], of the k largest logits, likeliest first.

    Positions go in portions that stay in the processor's cache; there the softmax, one pass, is half the price of a logsumexp.
    """
    import torch

    found = []
    for logits in logits_NV.split(max(1, PORTION // logits_NV.shape[1])):
        best = largest(logits, k)
        found.append((best, logits.softmax(-1).gather(1, best)))
    ids, probs = zip(*found, strict=True)
    return torch.cat(ids), torch.cat(probs)


def largest(logits_NV: torch.Tensor, k: int) -> torch.Tensor:
    """Return the columns [N, k] of the k largest numbers of every row, largest first.

    They are in the k columns with the largest maxima, when a long row is laid out in columns `DEEP` numbers deep: a maximum
    costs a fraction of a sort.
    """
    import torch

    columns = logits_NV.shape[1] // DEEP
    if columns * DEEP < LONG or columns < k:
        return logits_NV.topk(k, -1).indices
    table = logits_NV[:, : columns * DEEP].unflatten(1, (DEEP, columns))
    best = table.amax(1).topk(k, -1, sorted=False).indices
    among = best[:, None, :] + columns * torch.arange(DEEP, device=best.device)[None, :, None]
    rest = torch.arange(columns * DEEP, logits_NV.shape[1], device=best.device).expand(len(best), -1)
    among = torch.cat([among.flatten(1), rest], 1)
    return among.gather(1, logits_NV.gather(1, among).topk(k, -1).indices)


def describe(folder: Path, name: str, data: Rows) -> dict[str, float]:
    """Return what a file holds: positions, bytes for each, the mass of the k tokens, and how often the first one is right."""
    import numpy

    path = folder / f"{name}.topk"
    file = TopK(path)
    ids_NK, probs_NK = file.read(0, len(file))
    mass_N = probs_NK.sum(-1)
    return {
        "positions": len(file),
        "bytes_a_token": path.stat().st_size / len(file),
        "mass": float(mass_N.mean(dtype=float)),
        "mass_p5": float(numpy.quantile(mass_N, 0.05)),
        "accuracy": float((ids_NK[:, 0] == data.targets).mean()),
    }


if __name__ == "__main__":
    run_stage(main)
