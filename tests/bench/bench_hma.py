"""What HMA's search costs: a step against a plain fine-tuning step of the same batch, its memory, and its merge.

    python tests/bench/bench_hma.py [--rounds 7] [--layers 12] [--width 512] [--megabytes 400]

A step of HMA writes the merged weights, runs forward and backward, and turns each tensor's gradient into its part of K numbers;
a plain step runs forward and backward over all weights and moves them with AdamW. The rounds alternate, the best counts.
Memory is the process's peak above what it needs for a tiny model; the merge on disk is timed with K ratios and with one.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, logging

from tasks.average.likelihood import negative_logprob
from tasks.average.merge import merge
from tasks.average.merged import Merged
from tasks.average.ratios import start
from tasks.average.recipe import partwise, split, uniform
from tasks.average.search import SearchParams, Space, update
from tasks.average.weights import Weights
from tasks.runtime.packing import Example

THREADS = 1
W = [0.1, 0.2, 0.3]


def model(layers: int, width: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with a vocabulary of 8,000."""
    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "num_attention_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8000, **shape)).eval()


def batch(answers: int, tokens: int) -> list[Example]:
    """Answers with as many tokens each, half of them prompt."""
    torch.manual_seed(0)
    rows = torch.randint(4, 8000, (answers, tokens)).tolist()
    return [(row, [-100] * (tokens // 2) + row[tokens // 2 :]) for row in rows]


def timed(step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def steps(layers: int, width: int, rounds: int) -> None:
    """Print the time of a step of each kind for small and large batches."""
    plain = model(layers, width)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-5)
    space = Space(0.4, split(layers, 3))
    merged = Merged(model(layers, width), model(layers, width, 1), space.bounds)
    s_K = start(0.4, 3).requires_grad_(True)
    adam = torch.optim.Adam([s_K], lr=0.1)
    print(f"Llama of {plain.num_parameters() / 1e6:.0f}M parameters, {THREADS} thread")
    for answers, tokens in ((4, 32), (8, 64), (16, 128)):
        examples = batch(answers, tokens)

        def plain_step(examples=examples):
            negative_logprob(plain, examples).backward()
            adamw.step()
            adamw.zero_grad()

        def hma_step(examples=examples):
            update(merged, examples, space, SearchParams(), s_K, adam)

        plain_step(), hma_step()
        times = [(timed(plain_step), timed(hma_step)) for _ in range(rounds)]
        fine, ours = (min(column) for column in zip(*times, strict=True))
        ratio = f"ratio {ours / fine:.2f} (at most 1.5 is wanted)"
        print(f"  {answers * tokens:5} tokens: plain {fine * 1e3:7.1f} ms, HMA {ours * 1e3:7.1f} ms, {ratio}")


MEMORY = """
import sys, torch
sys.path.insert(0, ".")
from tests.bench.bench_hma import *

def resident(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1000

torch.set_num_threads(1)
layers, width = int(sys.argv[1]), int(sys.argv[2])
negative_logprob(model(1, 64), batch(2, 8)).backward()
base = resident("VmRSS")
pre, post = model(layers, width), model(layers, width, 1)
size = pre.num_parameters() * 4 / 1e6
space = Space(0.4, split(layers, 3))
merged = Merged(pre, post, space.bounds)
s_K = start(0.4, 3).requires_grad_(True)
adam = torch.optim.Adam([s_K], lr=0.1)
for _ in range(3):
    update(merged, batch(2, 16), space, SearchParams(), s_K, adam)
peak = resident("VmHWM") - base
print(f"memory: one model {size:.0f} MB, peak {peak:.0f} MB, ratio to three models {peak / (3 * size):.2f} (about 1)")
"""


def merges(megabytes: int, rounds: int) -> None:
    """Print the time of a merge with a ratio for each part and of the same merge with one ratio."""
    layers = max(3, megabytes // 50)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, side in enumerate(("pre", "post")):
            model(layers, 1024, seed).bfloat16().save_pretrained(folder / side)
            (folder / side / "tokenizer.json").write_text('{"model": {}, "added_tokens": []}')
        recipes = {"K ratios": partwise(W, split(layers, 3)), "one ratio": uniform(0.2, layers)}
        pair = Weights(folder / "pre"), Weights(folder / "post")
        size = sum(tensor.size for tensor in pair[0].tensors) / 1e6
        best: dict[str, float] = {}
        for number in range(rounds):
            for label, recipe in recipes.items():
                spent = timed(
                    lambda recipe=recipe, label=label, number=number: merge(*pair, {folder / f"{label}{number}": recipe})
                )
                best[label] = min(best.get(label, spent), spent)
        ours, base = best["K ratios"], best["one ratio"]
        print(f"merge of {size:.0f} MB: K ratios {ours:.2f} s, one ratio {base:.2f} s, ratio {ours / base:.2f} (about 1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--megabytes", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    steps(options.layers, options.width, options.rounds)
    subprocess.run([sys.executable, "-c", MEMORY, str(options.layers), str(options.width)], check=True)
    merges(options.megabytes, min(3, options.rounds))


if __name__ == "__main__":
    main()
