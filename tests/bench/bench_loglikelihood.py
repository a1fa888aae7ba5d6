"""Log-likelihoods: tasks.evaluate.loglikelihood against lm-eval's own model class on the same requests; one thread.

    python tests/bench/bench_loglikelihood.py [--model FOLDER] [--questions 64] [--batch-size 16] [--runs 3]

Made questions in the shape of the usual benchmarks: one-letter choices after a question (ARC, MMLU), sentences after a long text
(RACE), endings longer than their context (HellaSwag), one continuation a context (LAMBADA). Without --model two random Llamas of
one shape, with a vocabulary of 600 words, as the default base model has, and of 8,000, a share of the model as in a real one.
Processor time of the best run, since the cores may be shared.

`at most` is what nobody can pass who computes these layers in fp32: lm-eval's time against the layers alone, with no output
layer, no padding and no tokenizer, over every token once that two requests do not share. A matrix product here already
runs at the core's peak rate. Where one continuation stands behind a context of its own, that is 1.2 to 1.3 with 600 words.
"""

import argparse
import logging
import random
from functools import partial
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.evaluate.loglikelihood import _rows, encode_pairs, loglikelihoods
from tasks.runtime.models import load_causal
from tests.bench.bench_generate import WORDS, best, make

SHAPES = {"one letter": (60, 1, 4), "reading": (180, 8, 4), "endings": (20, 30, 4), "alone": (60, 4, 1)}
"""Words of the context, words of a choice, choices."""
ENGLISH = ["the", "dog", "sun", "tree", "ran", "saw", "big", "red", "happy", "little", "girl", "boy"]


def requests(words: list[str], questions: int, shape: tuple[int, int, int]) -> list[tuple[str, str]]:
    """Return the requests of made questions; lengths vary by a half."""
    context, choice, choices = shape
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint((most + 1) // 2, most)))

    asked = [text(context) for _ in range(questions)]
    return [(question, " " + text(choice)) for question in asked for _ in range(choices)]


def large() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model of `make` with 8,000 embedding rows, and its tokenizer."""
    model, tokenizer = make()
    model.resize_token_embeddings(8000)
    return model, tokenizer


def layers_alone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[tuple[str, str]], batch: int) -> None:
    """Run the layers over as many tokens as `asked` needs, in rows of the mean length of a request, all equally long."""
    pairs = encode_pairs(tokenizer, asked)
    needed = sum(row.length for row in _rows(pairs, model.config.max_position_embeddings, share=True))
    width = sum(len(context) + len(continuation) - 1 for context, continuation in pairs) // len(pairs)
    ids_BT = torch.zeros(max(1, needed // width), width, dtype=torch.long)
    with torch.inference_mode():
        for part_BT in ids_BT.split(batch):
            model.get_decoder()(part_BT, use_cache=False)


def compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str], given: argparse.Namespace) -> None:
    """Print the rates of both ways for every shape of questions, and for all of them."""
    own = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=given.batch_size)
    print(f"{model.num_parameters():,} parameters, {given.questions} questions, batches of {given.batch_size}")
    total, spent = 0, [0.0, 0.0, 0.0]
    for name, shape in SHAPES.items():
        asked = requests(words, given.questions, shape)
        instances = [Instance("loglikelihood", {}, request, number) for number, request in enumerate(asked)]
        theirs = best(partial(own.loglikelihood, instances, disable_tqdm=True), given.runs)
        ours = best(partial(loglikelihoods, model, tokenizer, asked, batch_size=given.batch_size), given.runs)
        floor = best(partial(layers_alone, model, tokenizer, asked, given.batch_size), given.runs)
        pairs = zip(
            own.loglikelihood(instances, disable_tqdm=True),
            loglikelihoods(model, tokenizer, asked, batch_size=given.batch_size),
            strict=True,
        )
        apart = max(abs(left - right) for (left, _), (right, _) in pairs)
        rates = f"lm-eval {len(asked) / theirs:7,.0f}, ours {len(asked) / ours:7,.0f} requests/s"
        print(f"{name:12}{rates}, ratio {theirs / ours:4.2f} of at most {theirs / floor:4.2f}, apart by at most {apart:.0e}")
        total, spent = total + len(asked), [spent[0] + theirs, spent[1] + ours, spent[2] + floor]
    rates = f"lm-eval {total / spent[0]:7,.0f}, ours {total / spent[1]:7,.0f} requests/s"
    print(f"{'all':12}{rates}, ratio {spent[0] / spent[1]:4.2f} of at most {spent[0] / spent[2]:4.2f} (2 is wanted)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    for name, value in (("questions", 64), ("batch-size", 16), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if given.model:
        compare(*load_causal(given.model), ENGLISH, given)
    else:
        compare(*make(), WORDS, given)
        compare(*large(), WORDS, given)


if __name__ == "__main__":
    main()
