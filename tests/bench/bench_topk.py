"""What keeping a teacher's likeliest tokens costs: against a loop that writes JSON, and above the bare forward pass.

    python tests/bench/bench_topk.py [--rows 64] [--length 128] [--k 5] [--rounds 3]

The loop is the form the method was first published in: for every position a dictionary of k token ids and probabilities, made
of a softmax over the whole vocabulary, a row appended as one line of JSON. Both are given the same logits: what is compared is
what follows the forward pass, and the storing alone,
once the likeliest tokens are known. Processor time of one thread, the rounds alternate, the best counts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.distill import teacher_topk
from tasks.distill.rows import Rows
from tasks.distill.topk_file import Header, TopK, Writer
from tasks.runtime.packing import collate, learned_logits, pack
from tasks.runtime.progress import Progress

BATCH = 16


def model(vocabulary: int, width: int) -> LlamaForCausalLM:
    """A Llama of six layers."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 6, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape)).eval()


def data(rows: int, length: int, vocabulary: int) -> Rows:
    """Rows of one record each, of which all but the first token is learned: the most there can be to keep."""
    drawn = torch.randint(4, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    return Rows(pack([(ids, ids) for ids in drawn], length))


def logits_of(teacher: LlamaForCausalLM, rows: Rows) -> list[torch.Tensor]:
    """The forward pass and nothing else: the logits of every batch."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows.rows), BATCH):
            found.append(learned_logits(teacher, collate(rows.rows[start : start + BATCH], 0)))
    return found


def forward(teacher: LlamaForCausalLM, rows: Rows) -> None:
    """The forward pass, its logits dropped batch by batch as in the stage."""
    with torch.inference_mode():
        for start in range(0, len(rows.rows), BATCH):
            learned_logits(teacher, collate(rows.rows[start : start + BATCH], 0))


def by_loop(batches: list[torch.Tensor], path: Path, k: int) -> None:
    """Position by position: softmax, sort, a dictionary; batch by batch a line of JSON in a file opened anew."""
    for logits_NV in batches:
        kept = []
        for logits_V in logits_NV:
            probs_V = torch.softmax(logits_V, -1)
            values, ids = torch.topk(probs_V, k)
            kept.append({str(ids[n].item()): values[n].item() for n in range(k)})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"top_token_prob": kept}) + "\n")


def ours(batches: list[torch.Tensor], path: Path, header: Header) -> None:
    """What the stage does with the logits of every batch."""
    writer = Writer(path, header)
    for logits_NV in batches:
        ids_NK, probs_NK = teacher_topk.likeliest(logits_NV, header.k)
        writer.append(ids_NK.numpy(), probs_NK.numpy())


def kept_by_loop(found: list[tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    """The storing alone: the k likeliest are known, and go into dictionaries and JSON."""
    for ids_NK, probs_NK in found:
        kept = [{str(i.item()): p.item() for i, p in zip(*both, strict=True)} for both in zip(ids_NK, probs_NK, strict=True)]
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"top_token_prob": kept}) + "\n")


def kept_by_us(found: list[tuple[torch.Tensor, torch.Tensor]], path: Path, header: Header) -> None:
    """The storing alone, in columns with checksums, flushed to disk."""
    writer = Writer(path, header)
    for ids_NK, probs_NK in found:
        writer.append(ids_NK.numpy(), probs_NK.numpy())


def stage(teacher: LlamaForCausalLM, rows: Rows, path: Path, header: Header) -> None:
    """The whole pass of the stage."""
    progress = Progress("bench", rows.offsets[-1], "positions", interval=1e9)
    teacher_topk.write(teacher, rows, Writer(path, header), BATCH, 0, progress)


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(vocabulary: int, width: int, given: argparse.Namespace, folder: Path) -> None:
    """Time all ways on one model and print the line of it."""
    teacher, rows = model(vocabulary, width), data(given.rows, given.length, vocabulary)
    hashes = {"teacher": "t", "tokenizer": "t", "data": "d"}
    header = Header(positions=rows.offsets[-1], k=given.k, vocabulary=vocabulary, **hashes)
    best: dict[str, float] = {}
    few = logits_of(teacher, data(BATCH, given.length, vocabulary))
    part = header.model_copy(update={"positions": sum(map(len, few))})
    found = [teacher_topk.likeliest(logits_NV, given.k) for logits_NV in few]
    for turn in range(given.rounds):
        ways = {
            "loop": lambda turn=turn: by_loop(few, folder / f"loop-{turn}.jsonl", given.k),
            "ours": lambda turn=turn: ours(few, folder / f"ours-{turn}.topk", part),
            "loop keeps": lambda turn=turn: kept_by_loop(found, folder / f"loop-keeps-{turn}.jsonl"),
            "ours keeps": lambda turn=turn: kept_by_us(found, folder / f"ours-keeps-{turn}.topk", part),
            "forward": lambda: forward(teacher, rows),
            "stage": lambda turn=turn: stage(teacher, rows, folder / f"stage-{turn}.topk", header),
        }
        for name, work in ways.items():
            best[name] = min(best.get(name, float("inf")), seconds(work))
    written = folder / "ours-0.topk"
    assert len(TopK(written)) == part.positions
    lines = (folder / "loop-0.jsonl").stat().st_size / part.positions
    print(
        f"V {vocabulary:7,}  width {width:4}  loop {best['loop']:.3f} s  ours {best['ours']:.4f} s  "
        f"{best['loop'] / best['ours']:5.1f}x   "
        f"storing alone {best['loop keeps'] / best['ours keeps']:5.1f}x   "
        f"above forward {best['stage'] / best['forward'] - 1:+.1%}   "
        f"{header.size / header.positions:.1f} bytes a token (JSON {lines:.0f})"
    )
    for path in folder.iterdir():
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 64), ("length", 128), ("k", 5), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary, width in ((645, 128), (8_000, 256), (32_000, 256)):
            compare(vocabulary, width, given, Path(folder))


if __name__ == "__main__":
    main()
