"""Makes the tokenizer of Atlas: one token a word, so that what an entity's name costs and says is known exactly.

Decoding gives words with one space between them; text written that way comes back as it was. Role markers are single tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
ROLES = ("<system>", "<user>", "<assistant>")
PUNCTUATION = (".", ":", "?")
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }} <eos>{% endgeneration %} "
    "{% else %}{{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Params(StageParams):
    """What the tokenizer cannot learn from the words."""

    section: ClassVar[str] = "tokenizer"
    max_length: int = Field(256, ge=16, le=65_536)
    """Longest text, in tokens, that the models of this tokenizer take."""


def main(params: Params, run: Run, *, corpus: In, out: Out) -> None:
    """Read the words of the world from `corpus` and write a tokenizer folder."""
    tokenizer = word_tokenizer(read_words(corpus / "words.txt"), params.max_length)
    with publish(out) as draft:
        tokenizer.save_pretrained(draft)


def read_words(path: Path) -> list[str]:
    """Return the words of a list, one a line. Raises UserError when it is missing or empty, or a line is not one word."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage corpus first")
    words = path.read_text(encoding="utf-8").split("\n")[:-1]
    if bad := [number for number, word in enumerate(words, 1) if not word.isalnum() or word != word.lower()]:
        raise UserError(f"{path}:{bad[0]}: must hold one word of small letters or digits, not {words[bad[0] - 1]!r}")
    if not words:
        raise UserError(f"{path}: holds no word")
    return words


def word_tokenizer(words: list[str], max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word, mark and role; text is lowered and split at spaces and marks."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [PAD, UNK, BOS, EOS, *ROLES, *PUNCTUATION, *words]
    tokenizer = Tokenizer(models.WordLevel({entry: number for number, entry in enumerate(entries)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


if __name__ == "__main__":
    run_stage(main)
