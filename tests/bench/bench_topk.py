"""What keeping a teacher's likeliest tokens costs: against a loop that writes JSON, and above the bare forward pass.

    python tests/bench/bench_topk.py [--rows 32] [--length 128] [--k 5] [--rounds 5]

The loop is the form the method was first published in: for every position of every row a softmax over the whole vocabulary, its k
largest, a dictionary of token ids and probabilities; batch by batch the rows, with their tokens and both masks, are appended as
lines of JSON to a file opened anew. It has an entry for each token of a row, since its loss masks the prompt only later; here
the prompt's positions are never sorted nor kept. So the ratio hangs on the share of tokens that is learned: of Atlas's questions
about noisy facts 0.15, of its instruction data 0.48, of plain text all but the first. Both ways are given the forward pass's
logits: what is compared is all that follows, and the storing alone, once the likeliest tokens are known. Above forward is the
stage's whole pass, output layer included, over a forward pass that drops its logits. Processor time of one thread; the ways take
turns, the best round counts, and of the overhead the median.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.distill import teacher_topk
from tasks.distill.rows import Rows
from tasks.distill.topk_file import Header, TopK, Writer
from tasks.runtime.packing import IGNORED, PackedRow, collate, learned_logits, pack, shifted
from tasks.runtime.progress import Progress

BATCH = 16
EXAMPLE = 26
"""Tokens of an example; of these so many are learned:"""
LEARNED = (4, 12, 25)
BATCHES = 4
"""Batches that loop and columns are given, all alike: beginning a file costs as much as some hundred positions."""


def model(vocabulary: int, width: int) -> LlamaForCausalLM:
    """A Llama of six layers."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 6, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape)).eval()


def data(rows: int, length: int, vocabulary: int, learned: int = EXAMPLE) -> Rows:
    """Rows full of examples that are learned from their `learned`-th last token on; one example a row where all of it is."""
    size = length if learned == EXAMPLE else EXAMPLE
    count = rows * (length // size)
    drawn = torch.randint(4, vocabulary, (count, size), generator=torch.Generator().manual_seed(0)).tolist()
    skipped = 1 if learned == EXAMPLE else size - learned
    return Rows(pack([(ids, [IGNORED] * skipped + ids[skipped:]) for ids in drawn], length))


def forward(teacher: LlamaForCausalLM, rows: Rows) -> None:
    """The forward pass, its logits dropped batch by batch as in the stage."""
    with torch.inference_mode():
        for start in range(0, len(rows.rows), BATCH):
            learned_logits(teacher, collate(rows.rows[start : start + BATCH], 0))


def dictionary(ids_K: torch.Tensor, values_K: torch.Tensor) -> dict[str, float]:
    """One position as the loop keeps it."""
    return {str(ids_K[n].item()): values_K[n].item() for n in range(len(ids_K))}


def by_loop(batches: Sequence[tuple[Sequence[PackedRow], torch.Tensor]], path: Path, k: int) -> None:
    """Position by position, prompts and all; `batches` are rows with the logits [B, T, V] of all their tokens."""
    for rows, logits_BTV in batches:
        lines = []
        for row, logits_TV in zip(rows, logits_BTV, strict=True):
            kept = []
            for logits_V in logits_TV:
                values_K, ids_K = torch.topk(torch.softmax(logits_V, -1), k)
                kept.append(dictionary(ids_K, values_K))
            masks = {"attention_mask": [1] * len(kept), "loss_mask": [int(label != IGNORED) for label in row["labels"]]}
            lines.append(json.dumps({"text": row["input_ids"], **masks, "top_token_prob": kept}))
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def ours(batches: Sequence[torch.Tensor], path: Path, header: Header) -> None:
    """What the stage does with the logits [N, V] of every batch's learned positions."""
    writer = Writer(path, header)
    for logits_NV in batches:
        ids_NK, probs_NK = teacher_topk.likeliest(logits_NV, header.k)
        writer.append(ids_NK.numpy(), probs_NK.numpy())


def kept_by_loop(found: Sequence[tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    """The storing alone: the k likeliest of every learned position are known, and go into dictionaries and JSON."""
    for ids_NK, probs_NK in found:
        kept = [dictionary(*both) for both in zip(ids_NK, probs_NK, strict=True)]
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"top_token_prob": kept}) + "\n")


def kept_by_us(found: Sequence[tuple[torch.Tensor, torch.Tensor]], path: Path, header: Header) -> None:
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


def compare(vocabulary: int, width: int, learned: int, given: argparse.Namespace, folder: Path) -> None:
    """Time all ways on one model and one share of learned tokens, and print the line of it."""
    teacher, rows = model(vocabulary, width), data(given.rows, given.length, vocabulary, learned)
    header = header_of(rows, given.k, vocabulary)
    few = Rows(rows.rows[:BATCH])
    part = header_of(few, given.k, vocabulary)
    part = part.model_copy(update={"positions": part.positions * BATCHES})
    batch = collate(few.rows, 0)
    _, learned_BT = shifted(batch["labels"])
    with torch.inference_mode():
        logits_BTV = teacher(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    mine = [logits_BTV[learned_BT]] * BATCHES
    found = [teacher_topk.likeliest(logits_NV, given.k) for logits_NV in mine]
    taken: dict[str, list[float]] = {}
    for turn in range(given.rounds):
        ways = {
            "loop": lambda turn=turn: by_loop([(few.rows, logits_BTV)] * BATCHES, folder / f"loop-{turn}.jsonl", given.k),
            "ours": lambda turn=turn: ours(mine, folder / f"ours-{turn}.topk", part),
            "loop keeps": lambda turn=turn: kept_by_loop(found, folder / f"loop-keeps-{turn}.jsonl"),
            "ours keeps": lambda turn=turn: kept_by_us(found, folder / f"ours-keeps-{turn}.topk", part),
            "forward": lambda: forward(teacher, rows),
            "stage": lambda turn=turn: stage(teacher, rows, folder / f"stage-{turn}.topk", header),
        }
        for name, work in ways.items():
            taken.setdefault(name, []).append(seconds(work))
    assert len(TopK(folder / "ours-0.topk")) == part.positions
    best = {name: min(values) for name, values in taken.items()}
    above = median(whole / bare - 1 for whole, bare in zip(taken["stage"], taken["forward"], strict=True))
    print(
        f"V {vocabulary:7,}  width {width:4}  learned {int(learned_BT.sum()) / batch['input_ids'].numel():4.2f}  "
        f"loop {best['loop'] * 1000:6.1f} ms  ours {best['ours'] * 1000:6.2f} ms  {best['loop'] / best['ours']:5.1f}x  "
        f"storing alone {best['loop keeps'] / best['ours keeps']:5.1f}x  above forward {above:+6.1%}  "
        f"{header.size / header.positions:.1f} bytes a token",
        flush=True,
    )
    for path in folder.iterdir():
        path.unlink()


def header_of(rows: Rows, k: int, vocabulary: int) -> Header:
    """The header of a file of these rows."""
    return Header(positions=rows.offsets[-1], k=k, vocabulary=vocabulary, teacher="t", tokenizer="t", data="d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 32), ("length", 128), ("k", 5), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary, width in ((645, 128), (8_000, 256), (32_000, 256)):
            for learned in LEARNED:
                compare(vocabulary, width, learned, given, Path(folder))


if __name__ == "__main__":
    main()
