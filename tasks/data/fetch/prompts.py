"""Brings in real data: JSON Lines, or a datasets name, becomes the same folder of sets that Atlas's corpus is.

A record is one of: `text` (its first words become the prompt, the rest the completion), `prompt` with `completion`,
`prompt` with `chosen` and `rejected`, two dialogues `chosen` and `rejected` that begin alike, as HH-RLHF has them, `messages`,
or a bare `prompt`. Rows held out for evaluation never reach training.
"""

from __future__ import annotations

import json
import os.path
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tasks.runtime.models import HUB_NAME
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import OnBadRecord, Record, Rejects, read_records, write_records
from tasks.runtime.stage import Out, Run, run_stage


class Params(StageParams):
    """Where prompts come from, and how rows are shared between training and evaluation."""

    section: ClassVar[str] = "prompts"
    sets: str = "data/sets/corpus"
    """Folder of sets that the later stages read; names a dependency in dvc.yaml."""
    path: str | None = None
    """A JSON Lines file, or a datasets name such as org/name."""
    split: str = "train"
    """Split of a datasets name."""
    prompt_words: int = Field(12, ge=1, le=1000)
    """Words of a `text` record that become its prompt."""
    completion_words: int = Field(60, ge=1, le=10_000)
    """Words of a `text` record after the prompt that become the completion."""
    heldout_rows: str = "0:64"
    """Rows kept from training whose prompts measure the reward, as first:end of the file, counted from 0."""
    perplexity_rows: str = "0:64"
    """Rows, also kept from training, whose whole texts measure perplexity, as first:end."""
    sft_records: int = Field(512, ge=0)
    """Demonstrations for instruction tuning, drawn from the rows that are not held out."""
    prompts: int = Field(256, ge=1)
    """Prompts for preferences and RLHF, drawn from the rows that are not held out."""
    prompt_chars: int | None = Field(None, ge=1)
    """Records with a prompt of more characters are left out, since a model's context would not hold it; null leaves out none."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""
    on_bad_record: OnBadRecord = "stop"
    """What a malformed line does: stop the stage, or go to rejects.jsonl with its reason."""


ASSISTANT = "\n\nAssistant:"
"""What stands before the answer of a dialogue in plain text (Bai et al. 2022)."""


class Source(Record):
    """Any record that can give a prompt."""

    text: str | None = Field(None, min_length=1)
    prompt: str | None = Field(None, min_length=1)
    completion: str | None = Field(None, min_length=1)
    chosen: str | None = Field(None, min_length=1)
    rejected: str | None = Field(None, min_length=1)
    messages: list[dict[str, str]] | None = Field(None, min_length=2)

    def model_post_init(self, context: Any) -> None:
        """Refuse a record that has nothing to prompt with, or sides that say nothing after what they share."""
        if self.text or self.prompt or self.messages:
            return
        if not (self.chosen and self.rejected):
            raise ValueError("needs one of text, prompt or messages, or both of chosen and rejected")
        shared = shared_prompt(self.chosen, self.rejected)
        if not shared:
            raise ValueError(f"chosen and rejected share no beginning that ends with {ASSISTANT.strip()!r}; give it a prompt")
        if any(not side[len(shared) :].strip() for side in (self.chosen, self.rejected)):
            raise ValueError("chosen or rejected is empty after the dialogue that they share")


def shared_prompt(chosen: str, rejected: str) -> str:
    """Return what two dialogues share, up to the last answer that both begin; empty when there is none."""
    before, found, _ = os.path.commonprefix([chosen, rejected]).rpartition(ASSISTANT)  # noqa: RUF071  of characters is meant
    return before + found


def main(params: Params, run: Run, *, out: Out, scores: Out) -> None:
    """Write sft.jsonl, prompts.jsonl, heldout.jsonl and perplexity.jsonl to the folder `out`, and the counts to `scores`."""
    if params.path is None:
        raise UserError("params.yaml: prompts.path is not set; give --set prompts.path=FILE.jsonl")
    rejects = Rejects()
    everything = load(params.path, params.split, params.on_bad_record, rejects)
    rows = [row for row in everything if fits(row, params)]
    heldout = select(rows, params.heldout_rows, "heldout_rows")
    texts = select(rows, params.perplexity_rows, "perplexity_rows")
    kept_out = {id(row) for row in [*heldout, *texts]}
    training = [row for row in rows if id(row) not in kept_out]
    if not training:
        raise UserError(f"{params.path}: all {len(rows)} rows are held out; narrow heldout_rows and perplexity_rows")
    random.Random(params.seed).shuffle(training)
    prompted = [split(row, params) for row in training]
    demonstrations = [row for row in prompted if "completion" in row][: params.sft_records]
    with publish(out) as draft:
        draft.mkdir()
        write_records(draft / "sft.jsonl", demonstrations)
        write_records(draft / "prompts.jsonl", prompted[: params.prompts])
        write_records(draft / "heldout.jsonl", [split(row, params) for row in heldout])
        write_records(draft / "perplexity.jsonl", [{"text": whole(row)} for row in texts])
        if rejects.lines:
            rejects.save(draft / "rejects.jsonl")
    counts = {"rows": len(rows), "rejected": len(rejects.lines), "too_long": len(everything) - len(rows)}
    publish_json(scores, {**counts, "sft": len(demonstrations)})


def fits(row: Source, params: Params) -> bool:
    """Tell whether a record's prompt is not too long."""
    return params.prompt_chars is None or len(split(row, params)["prompt"]) <= params.prompt_chars


def load(path: str, split_name: str, on_bad_record: OnBadRecord, rejects: Rejects) -> list[Source]:
    """Read every row of a JSON Lines file or of a datasets name. Raises UserError when there is neither."""
    if Path(path).is_file():
        return read_records(Path(path), Source, on_bad_record, rejects)
    if not HUB_NAME.match(path) or Path(path).exists():
        raise UserError(f"prompts.path: {path} is neither a JSON Lines file nor a datasets name of the form org/name")
    return [Source.model_validate(row) for row in download(path, split_name)]


def download(name: str, split_name: str) -> Iterable[Mapping[str, Any]]:
    """Fetch a data set from the hub. Raises UserError, within seconds, when the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(name, timeout=5).sha
        from datasets import load_dataset

        return load_dataset(name, split=split_name, revision=revision)
    except Exception as error:  # noqa: BLE001  the client's network errors change their class from release to release
        raise UserError(
            f"prompts.path: {name} is not a local file, and the hub did not give it ({type(error).__name__}); check the name "
            f"and the network, or save it as JSON Lines where there is one and give --set prompts.path=FILE.jsonl"
        ) from None


def select(rows: list[Source], span: str, key: str) -> list[Source]:
    """Return the rows first:end. Raises UserError when `span` is not of that form or lies outside the file."""
    first, _, end = span.partition(":")
    if not (first.isdigit() and end.isdigit()) or not 0 <= int(first) < int(end) <= len(rows):
        raise UserError(f"prompts.{key}: {span!r} must be first:end within the {len(rows)} rows of the file")
    return rows[int(first) : int(end)]


def split(row: Source, params: Params) -> dict[str, str]:
    """Return `prompt` and, where the record has one, `completion` (and `chosen`, `rejected`) of a record."""
    if row.messages:
        return {"prompt": row.messages[0]["content"], "completion": row.messages[1]["content"]}
    if row.prompt:
        given = {"prompt": row.prompt, "completion": row.completion or row.chosen}
        given |= {"chosen": row.chosen, "rejected": row.rejected}
        return {key: value for key, value in given.items() if value}
    if not row.text:
        assert row.chosen
        assert row.rejected
        prompt = shared_prompt(row.chosen, row.rejected)
        chosen, rejected = (side[len(prompt) :].strip() for side in (row.chosen, row.rejected))
        return {"prompt": prompt, "completion": chosen, "chosen": chosen, "rejected": rejected}
    words = row.text.split(" ")
    first, rest = words[: params.prompt_words], words[params.prompt_words :][: params.completion_words]
    return {"prompt": " ".join(first)} | ({"completion": " ".join(rest)} if rest else {})


def whole(row: Source) -> str:
    """Return the full text of a record, for perplexity."""
    if row.text:
        return row.text
    if row.messages:
        return json.dumps(row.messages, ensure_ascii=False)
    return f"{row.prompt or ''}{row.completion or row.chosen or ''}"


if __name__ == "__main__":
    run_stage(main)
