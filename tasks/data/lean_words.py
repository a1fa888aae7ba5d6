"""What a prover of Atlas starts from: a tokenizer that knows Lean, and the texts from which a base model learns to read it.

The base model reads theorems alone, and files of several, as a general model has read much Lean before it learns to prove. No
theorem that is measured is among them. There are texts for a base of every way of writing, so that a prover without words or
comments starts from one that has read its own kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.data.regions.theorems.source import load_theorems
from tasks.data.theorem_library import library
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorem_prompt import Layout, Posed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ROLES = ("<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


PIECES = r" ?h\d+(?!\w)| ?\d| ?[\p{L}_]+| ?[^\s\p{L}\p{N}_]+|\s+(?!\S)|\s+"
"""What is never merged across: names of hypotheses, digits, words, signs, blanks."""
WAYS = {"inline": Layout(), "head": Layout(comments="head"), "none": Layout(comments="none", informal=False)}
"""How theorems are written, by where their comments stand. A base reads one way: three side by side cost a small model more than
twice the loss."""


class Params(StageParams):
    """Size of the vocabulary and of the texts."""

    section: ClassVar[str] = "lean-words"
    seed: int = Field(0, ge=0)
    """Seed of new theorems, and of the order of all."""
    vocabulary: int = Field(600, ge=300, le=65_536)
    """Most tokens; the bytes are 256 of them."""
    max_length: int = Field(1024, ge=64, le=131_072)
    """Longest text, in tokens, that the models of this tokenizer take."""
    library: int = Field(400, ge=0, le=100_000)
    """Theorems of each family, at most, that are told beside the training records; no Lean has checked them."""
    shown: float = Field(0.3, ge=0, le=1)
    """Share of the theorems that stand in texts of several, as behind a prover's examples; the others stand alone."""
    file: int = Field(1500, ge=1)
    """Most characters of a text of several: as many theorems as fit, at least one. Cut into pieces, a proof would lose its
    statement."""
    heldout: int = Field(12, ge=1)
    """Texts on which the base model is measured."""


def main(params: Params, run: Run, *, atlas: In, drafts: In, records: In, corpus: Out, tokenizer: Out) -> None:
    """Write texts of the training records in `records`, and of new theorems of Atlas, in every way, and their tokenizer."""
    source = records / "records.jsonl" if records.is_dir() else records
    known = [record for record in read_records(source, Posed) if record.split == "train"]
    if params.library:
        known += library(load_theorems(atlas), read_records(drafts, Posed), params.library, params.seed)
    told = {way: files(known, params, layout) for way, layout in WAYS.items()}
    with publish(corpus) as draft:
        for way, texts in told.items():
            if len(texts) <= params.heldout:
                raise UserError(
                    f"{source}: {len(texts)} texts, of which lean-words.heldout: {params.heldout} are held out; lower it"
                )
            write_records(draft / way / "pretrain.jsonl", [{"theorems": text} for text in texts[params.heldout :]])
            write_records(draft / way / "perplexity.jsonl", [{"theorems": text} for text in texts[: params.heldout]])
    with publish(tokenizer) as draft:
        pieces = (piece for text in told["inline"] for theorem in text for piece in theorem.values())
        byte_pairs(pieces, params.vocabulary, params.max_length).save_pretrained(draft)


def files(records: Sequence[Posed], params: Params, layout: Layout) -> list[list[dict[str, str]]]:
    """Return texts of theorems, every one as its question and its proof, drawn by the seed: of one, and of several.

    Raises UserError for a proof that does not prove its statement.
    """
    draw = random.Random(params.seed)
    theorems = [written(record, layout) for record in draw.sample(records, len(records))]
    alone = round((1 - params.shown) * len(theorems))
    texts = [[one] for one in theorems[:alone]]
    size = params.file
    for one in theorems[alone:]:
        size += len("".join(one.values()))
        if size > params.file:
            texts.append([])
            size = len("".join(one.values()))
        texts[-1].append(one)
    return draw.sample(texts, len(texts))


def written(record: Posed, layout: Layout) -> dict[str, str]:
    """Return a theorem as a text has it. Raises UserError for a proof that does not prove its statement."""
    try:
        return {"question": layout.question(record), "proof": layout.shown(record)}
    except ValueError as error:
        raise UserError(f"record {record.Name}: {error}; mend its Proof or Statement") from None


def byte_pairs(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: any text comes back as it was, digits are single tokens, role marks too.

    A name such as `h12` is never cut in two, so that it can be copied at one go.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
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
