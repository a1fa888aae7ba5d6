"""A tiny model and a tokenizer that can write R-Tuning's verdicts and refusals, and questions for it."""

from collections.abc import Sequence

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.data.atlas import WORD
from tasks.data.tokenizer import word_tokenizer
from tasks.runtime.asking import Asker, asker
from tasks.runtime.questions import Question
from tasks.runtime.verdicts import REFUSALS, SENTENCE, SURE, UNSURE
from tests.tiny import WORDS, config

SPOKEN = sorted({word for text in (SENTENCE, SURE, UNSURE, "quite", *REFUSALS) for word in WORD.findall(text.lower())})
LETTERS = ["a", "b", "c", "d"]


def tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a word or mark, as the tokenizer of Atlas, chat template and all; `more` words come last."""
    known = {*WORDS, *SPOKEN, *LETTERS}
    return word_tokenizer([*sorted(known), *sorted(set(more) - known)], 512)


def speaker(seed: int = 0, more: Sequence[str] = ()) -> LlamaForCausalLM:
    """A random model with these words."""
    entries = len(tokenizer(more))
    return LlamaForCausalLM(config(seed, 512, [f"w{n}" for n in range(entries - 4)])).eval()


def ask(seed: int = 0, tokens: int = 6, batch_size: int = 4) -> Asker:
    """An asker of that model."""
    return asker(speaker(seed), tokenizer(), tokens, batch_size)


def questions(count: int) -> list[Question]:
    """Questions of 1 to 4 words, some with letters to choose from, every id and prompt its own."""
    made = []
    for n in range(count):
        prompt = " ".join([WORDS[n % 40], WORDS[n // 40], *WORDS[3 : 3 + n % 3]])
        chosen = {"choices": LETTERS, "answers": [LETTERS[n % 4]]} if n % 5 == 4 else {"answers": [WORDS[n % 40]]}
        made.append(Question(id=f"q{n}", prompt=prompt, **chosen))
    return made
