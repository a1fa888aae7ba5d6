"""Probing: greedy answers with their probabilities, against `model.generate` question by question on the same model; one thread.

    python tests/bench/bench_probe.py [--questions 192] [--tokens 8] [--batch-size 64] [--runs 3]

A random Llama of 1.4 million parameters, as large as the default base model, is asked questions of 6 to 18 words. Both ways must
give the same answers, and the probabilities that `model.generate` returns the same numbers. Processor time of the best run; the
plain way, which takes most of the time, is run once less.
"""

import argparse
import math
import random
from functools import partial

import torch

from tasks.runtime.probe import Answer, answers
from tests.bench.bench_generate import WORDS, best, make

WANTED = 8


def one_by_one(model, prompts, tokens) -> list[tuple[list[int], float]]:
    """Return the ids and the log-probability of each answer, its end not counted, as `model.generate` gives them."""
    found = []
    for prompt in prompts:
        given = torch.tensor([prompt])
        out = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        ids = [token for token in out.sequences[0, len(prompt) :].tolist() if token != model.generation_config.eos_token_id]
        scores = zip(out.scores, ids, strict=False)
        found.append((ids, math.fsum(float(logits[0].log_softmax(-1)[token]) for logits, token in scores)))
    return found


def check(theirs: list[tuple[list[int], float]], ours: list[Answer]) -> float:
    """Return how far the log-probabilities are apart at most, in nats; the answers themselves must be the same."""
    assert [ids for ids, _ in theirs] == [answer.ids for answer in ours], "the two ways answer differently"
    return max(abs(logprob - answer.logprob) for (_, logprob), answer in zip(theirs, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("questions", 192), ("tokens", 8), ("batch-size", 64), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = make()
    draw = random.Random(0)
    prompts = [tokenizer(" ".join(draw.choices(WORDS, k=draw.randint(6, 18))))["input_ids"] for _ in range(given.questions)]
    plain = partial(one_by_one, model, prompts, given.tokens)
    probe = partial(answers, model, tokenizer, prompts, max_new_tokens=given.tokens, batch_size=given.batch_size)
    apart = check(plain(), probe())
    theirs, ours = best(plain, max(1, given.runs - 1)), best(probe, given.runs)
    print(f"{given.questions} questions, {given.tokens} tokens an answer, {model.num_parameters():,} parameters")
    print(f"model.generate, one by one {given.questions / theirs:8,.0f} questions/s")
    print(f"tasks.runtime.probe        {given.questions / ours:8,.0f} questions/s")
    print(
        f"ratio {theirs / ours:.1f} ({WANTED} is wanted); the same answers, log-probabilities apart by at most {apart:.0e} nats"
    )


if __name__ == "__main__":
    main()
