"""Block data for 10,000 records: how long the stage takes, and how much of what the trainer computes is padding.

Beside it what stacking the same blocks in one rectangle a batch would pad, as the usual collator does.

    python -m tests.bench.bench_block [RECORDS] [CONTEXT]
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from tasks.data import block
from tasks.data.lean_words import byte_pairs
from tasks.runtime.blocks import Blocks
from tasks.runtime.records import write_records
from tasks.train.block import end_to_end
from tests.theorems import chain

BATCH = 8


def main(count: int = 10_000, context: int = 2048) -> None:
    """Print time and padding."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        records = [chain(n, 1 + n * 7919 % 9) for n in range(count)]
        write_records(place / "records.jsonl", records)
        told = [text for one in records[:500] for text in (one.informal, one.Commented_proof)]
        byte_pairs(told, 512, context).save_pretrained(place / "words")
        inputs = {"records": place / "records.jsonl", "tokenizer": place / "words"}
        started, busy = time.perf_counter(), time.process_time()
        block.main(block.Params(max_length=context), None, **inputs, out=place / "out", scores=place / "scores.json")
        wall, cpu = time.perf_counter() - started, time.process_time() - busy
        print(f"{count:,} records, context {context}: {wall:.1f} s, {cpu:.1f} s of CPU")
        scores, data = json.loads((place / "scores.json").read_text()), Blocks.load(place / "out")
        size = (place / "out/blocks.safetensors").stat().st_size
    print(f"{scores['tokens']:,} tokens in blocks, {size / 1e6:.1f} MB on disk, {scores['examples_mean']:.1f} examples a block")
    print(f"context filled: {scores['filled']:.1%}")
    sampled = range(0, min(len(data), 400 * BATCH), BATCH)
    batches = [[data.row(n) for n in range(first, min(first + BATCH, len(data)))] for first in sampled]
    real = sum(len(ids) for batch in batches for ids, _ in batch)
    print(f"padding: {1 - real / sum(end_to_end(batch)['input_ids'].numel() for batch in batches):.2%}")
    print(f"padding of a rectangle a batch: {1 - real / sum(len(b) * max(len(ids) for ids, _ in b) for b in batches):.2%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
