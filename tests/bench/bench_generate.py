"""Sampling: tasks.runtime.generate against `model.generate`, prompt by prompt and in its own batches; one thread.

    python tests/bench/bench_generate.py [--prompts 64] [--samples 8] [--tokens 24] [--runs 3]

A random Llama of 1.4 million parameters, as large as the default base model, continues prompts of 6 to 18 words; hardly a text
ends early. Processor time of the best run, since the cores may be shared; the ratio is to sampling prompt by prompt.
"""

import argparse
import random
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.runtime.generate import generate

WORDS = [f"w{number}" for number in range(600)]


def make() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model and a tokenizer of one token a word."""
    entries = ["<pad>", "<unk>", "<s>", "</s>", *WORDS]
    words = Tokenizer(models.WordLevel({entry: number for number, entry in enumerate(entries)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(entries), **shape, tie_word_embeddings=True, eos_token_id=3)).eval()
    return model, PreTrainedTokenizerFast(tokenizer_object=words, **marks, padding_side="left")


def one_by_one(model, tokenizer, prompts, samples, tokens) -> None:
    """The plain way: each prompt alone, its samples as one batch."""
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        model.generate(**ids, do_sample=True, max_new_tokens=tokens, num_return_sequences=samples, pad_token_id=0)


def their_batches(model, tokenizer, prompts, samples, tokens) -> None:
    """`model.generate` on left-padded batches of as many rows as ours."""
    for start in range(0, len(prompts), 256 // samples):
        batch = prompts[start : start + 256 // samples]
        ids = tokenizer(batch, return_tensors="pt", padding=True, return_token_type_ids=False)
        model.generate(**ids, do_sample=True, max_new_tokens=tokens, num_return_sequences=samples, pad_token_id=0)


def ours(model, tokenizer, prompts, samples, tokens) -> None:
    """`generate` as the stages call it."""
    options = {"max_new_tokens": tokens, "temperature": 1.0, "samples": samples, "seed": 0, "batch_size": 256}
    generate(model, tokenizer, prompts, **options)


def best(work: Callable[[], None], runs: int) -> float:
    """Return the least processor time of some runs, in seconds."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("prompts", 64), ("samples", 8), ("tokens", 24), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = make()
    draw = random.Random(0)
    prompts = [" ".join(draw.choices(WORDS, k=draw.randint(6, 18))) for _ in range(given.prompts)]
    rows = {
        "model.generate, prompt by prompt": one_by_one,
        "model.generate, batches of 256": their_batches,
        "tasks.runtime.generate": ours,
    }
    first = 0.0
    print(f"{given.prompts} prompts x {given.samples} samples x {given.tokens} tokens, {model.num_parameters():,} parameters")
    for name, way in rows.items():
        seconds = best(lambda way=way: way(model, tokenizer, prompts, given.samples, given.tokens), given.runs)
        first = first or seconds
        rate = given.prompts * given.samples * given.tokens / seconds
        print(f"{name:34}{seconds:8.2f} s{rate:10,.0f} tokens/s{first / seconds:8.1f}x")


if __name__ == "__main__":
    main()
