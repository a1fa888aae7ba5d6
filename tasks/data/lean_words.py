"""What a prover of Atlas starts from: a tokenizer that knows Lean, and the texts from which a base model learns both languages.

The base model sees the words of a theorem and its Lean text as one document each, uncommented and apart, so it learns to
write both and not how one follows from the other. Only theorems of the training split are told.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorem_prompt import Posed, recommented, tail

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ROLES = ("<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Params(StageParams):
    """Size of the vocabulary, and what is held back to measure the base model."""

    section: ClassVar[str] = "lean-words"
    seed: int = Field(0, ge=0)
    """Seed of the order of the texts and of those held back."""
    vocabulary: int = Field(1024, ge=300, le=65_536)
    """Most tokens; the bytes are 256 of them."""
    max_length: int = Field(1024, ge=64, le=131_072)
    """Longest text, in tokens, that the models of this tokenizer take."""
    heldout: float = Field(0.03, gt=0, lt=0.5)
    """Share of the texts on which the base model is measured."""


def main(params: Params, run: Run, *, records: In, corpus: Out, tokenizer: Out) -> None:
    """Write the texts of the records in `records` (a file, or a folder with `records.jsonl`) and their tokenizer."""
    source = records / "records.jsonl" if records.is_dir() else records
    known = [record for record in read_records(source, Posed) if record.split == "train"]
    texts = list(dict.fromkeys(text for record in known for text in documents(record) if text.strip()))
    held = max(1, round(len(texts) * params.heldout))
    if len(texts) <= held:
        raise UserError(f"{source}: {len(texts)} texts of training records, too few to learn from; give more records")
    random.Random(params.seed).shuffle(texts)
    with publish(corpus) as draft:
        write_records(draft / "pretrain.jsonl", [{"text": text} for text in texts[held:]])
        write_records(draft / "perplexity.jsonl", [{"text": text} for text in texts[:held]])
    with publish(tokenizer) as draft:
        byte_pairs(commented(known), params.vocabulary, params.max_length).save_pretrained(draft)


def documents(record: Posed) -> list[str]:
    """Return a record's words, and its statement with the bare proof. Raises UserError for a proof of another statement."""
    try:
        bare = recommented(tail(record.Proof, record.Statement), "none")
    except ValueError as error:
        raise UserError(f"record {record.Name}: {error}; mend its Proof or Statement") from None
    return [record.informal, record.Statement + bare]


def commented(records: Sequence[Posed]) -> Iterable[str]:
    """Yield what the tokenizer learns from: words and commented proofs."""
    for record in records:
        yield record.informal
        yield record.Commented_proof or record.Proof


def byte_pairs(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: any text comes back as it was, digits are single tokens, role marks too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
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
