"""Makes the data of SaySelf from a model's own disagreement with itself (Xu et al. 2024, stage 1).

The untuned model answers every question many times; its answers are clustered. How many agree with the kept one is the confidence
to be stated, what the others say the rationale. The questions are parted first: some are learned, some are for reinforcement,
some choose the checkpoint, and the rest test. Samples and rationales outlive a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.data.clusters import Cluster, KeepRule, by_match, by_similarity, choose, is_gold, load_embedder
from tasks.data.confidence_questions import SPLITS, read_questions, split
from tasks.data.summariser import Case, Endpoint, Store, Summarise, from_clusters, from_model, summarise_all
from tasks.runtime.confidence import ANSWER, SCALE, Question, agreement, parse_response, write_response
from tasks.runtime.models import check_folder, encode_completion, encode_prompt, load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import refuses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Params(StageParams):
    """How questions become (question, answer, rationale, confidence)."""

    section: ClassVar[str] = "confidence-data"
    seed: int = Field(0, ge=0)
    """Seed of the split, the draws and the samples."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""
    files: list[str] = Field(default=["facts.jsonl"], min_length=1)
    """Files of questions below `questions`: `prompt` with `completion`, or with `answers` and their `probabilities`."""
    draws: int = Field(8, ge=1, le=1000)
    """Right answers drawn for a question with a known distribution."""
    parts: list[float] = Field(default=[0.4, 0.3, 0.1, 0.2], min_length=4, max_length=4)
    """Shares of the questions for sft, rl, valid and test; questions on one entity stay together."""
    samples: int = Field(100, ge=2, le=1000)
    """Answers of the untuned model to each question."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Sampling temperature."""
    max_new_tokens: int = Field(4, ge=1)
    """Longest answer, in tokens."""
    instruction: str = ""
    """Said after each question when sampling; a model that reasons first is to be told to end with `Answer: ...`."""
    generate_batch: int = Field(512, ge=1)
    """Answers sampled at once: memory against speed. Changes a number only by rounding, but bits all the same."""
    embedder: str | None = None
    """Folder of a sentence-transformers model that clusters the answers; null for those that are equal after normalising."""
    threshold: float = Field(0.9, gt=0, lt=1)
    """Cosine above which two answers say the same."""
    led: bool = True
    """Whether `Answer:` leads an answer that no chain of thought stands before; without it the answer stands first, in the form
    in which the untuned model gives it, and is forgotten less."""
    keep: KeepRule = "gold_else_majority"
    """Which cluster is learned. `gold` drops the questions without a right answer, and with them the low confidences."""
    competing: float = Field(0.05, ge=0, le=1)
    """Least share of the samples with which another answer is a competing one."""
    most: int = Field(5, ge=1, le=100)
    """Most competing answers that a rationale is told of, the largest shares first."""
    summariser: Literal["clusters", "endpoint", "model", "none"] = "clusters"
    """Who writes the rationale: a sentence that names the competing answers, a language model, or nobody."""
    endpoint: str | None = Field(None, pattern=r"^https?://")
    """OpenAI-compatible address, up to and without `/chat/completions`."""
    endpoint_model: str | None = None
    """Name of the model there; for `model`, its folder here."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for one request."""
    retries: int = Field(5, ge=0, le=20)
    """Further attempts after a time-out, 429, 5xx or a malformed reply."""
    parallel: int = Field(4, ge=1, le=64)
    """Requests at once."""
    rationale_tokens: int = Field(100, ge=1)
    """Longest rationale of a local model, in tokens."""
    max_length: int = Field(128, ge=8)
    """Longest row, in tokens; a longer one is dropped and counted, for cutting it would cut off its confidence."""

    @model_validator(mode="after")
    def _whole(self) -> Params:
        if abs(sum(self.parts) - 1) > 1e-6 or min(self.parts) < 0:
            raise ValueError("parts: must be shares of at least 0 that sum to 1")
        if self.summariser == "endpoint" and not (self.endpoint and self.endpoint_model):
            raise ValueError("summariser: endpoint needs endpoint and endpoint_model")
        if self.summariser == "model" and not self.endpoint_model:
            raise ValueError("summariser: model needs endpoint_model, a model folder")
        return self


@dataclass(frozen=True)
class Reflected:
    """A question with the untuned model's answers."""

    question: Question
    texts: Sequence[str]
    answers: Sequence[str]
    clusters: Sequence[Cluster]

    def case(self, kept: Cluster, least: float, most: int) -> Case:
        """Return what is to be summarised: the `most` answers beside the kept one that have at least the share `least`."""
        shares = [(one.answer, one.size / len(self.texts)) for one in self.clusters if one is not kept and one.answer.strip()]
        return Case(self.question.prompt, kept.answer, [(answer, share) for answer, share in shares if share >= least][:most])


def main(params: Params, run: Run, *, model: In, questions: In, out: Out, scores: Out) -> None:
    """Write `out`: samples, clusters and sft of the questions, and the questions of the other splits (rl, valid, test)."""
    check_folder(model)
    places = [questions / name for name in params.files]
    asked, duplicates = read_questions(places, params.draws, params.seed)
    parts = split(asked, params.parts, params.seed)
    store = Store(run.checkpoints.folder.parent / "rationales.jsonl")  # outlasts a change of params: nothing is paid twice
    reflected = reflect(params, asked, sample(params, run, model, asked))
    learned = {question.qid for question in parts["sft"]}
    rows, dropped = write_rows(params, run, store, model, [one for one in reflected if one.question.qid in learned])
    with publish(out) as draft:
        write_records(draft / "samples.jsonl", (row for one in reflected for row in sample_rows(one)))
        write_records(draft / "clusters.jsonl", (row for one in reflected for row in cluster_rows(one)))
        write_records(draft / "sft.jsonl", rows)
        for name in SPLITS[1:]:
            write_records(draft / f"{name}.jsonl", parts[name])
    counts = {name: len(part) for name, part in parts.items()}
    publish_json(scores, {**counts, "rows": len(rows), "duplicates": duplicates, **dropped, **describe(params, rows)})
    run.checkpoints.clear()


def sample(params: Params, run: Run, folder: Path, asked: Sequence[Question]) -> dict[str, list[str]]:
    """Return the untuned model's answers by qid; they are kept until the stage is done."""
    done = run.checkpoints
    if 1 not in done.steps():
        from tasks.runtime.generate import generate

        set_determinism(params.seed, params.threads)
        model, tokenizer = load_causal(folder)
        texts = generate(
            on_device(model),
            tokenizer,
            [f"{question.prompt} {params.instruction}".strip() for question in asked],
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            samples=params.samples,
            seed=params.seed,
            batch_size=params.generate_batch,
            progress=run.progress(params.samples * len(asked), "answers"),
        )
        with done.save(1) as draft:
            rows = ({"qid": question.qid, "texts": given} for question, given in zip(asked, texts, strict=True))
            write_records(draft / "texts.jsonl", rows)
    return {row.qid: row.texts for row in read_records(done.place(1) / "texts.jsonl", Sampled)}


class Sampled(Record):
    """The answers to one question."""

    qid: str
    texts: list[str]


def reflect(params: Params, questions: Sequence[Question], texts: Mapping[str, list[str]]) -> list[Reflected]:
    """Return every question with its answers in clusters."""
    embed = load_embedder(Path(params.embedder)) if params.embedder else None
    found = []
    for question in questions:
        given = texts[question.qid]
        answers = [parse_response(text).answer or "" if ANSWER.search(text) else text.strip() for text in given]
        clusters = by_similarity(embed(question.prompt, given), answers, params.threshold) if embed else by_match(answers)
        found.append(Reflected(question, given, answers, clusters))
    return found


def write_rows(
    params: Params, run: Run, store: Store, folder: Path, reflected: Sequence[Reflected]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows to be learned, and how many questions were dropped for which reason."""
    from tasks.runtime.models import load_tokenizer

    chosen = [(one, choose(one.clusters, one.question.answers, params.keep)) for one in reflected]
    kept = [(one, cluster) for one, cluster in chosen if cluster is not None and cluster.answer.strip()]
    rationales = rationales_of(params, run, store, [one.case(cluster, params.competing, params.most) for one, cluster in kept])
    rows = [_row(params, one, cluster, why) for (one, cluster), why in zip(kept, rationales, strict=True)]
    tokenizer = load_tokenizer(folder)
    short = [row for row in rows if length(tokenizer, row) <= params.max_length]
    if not short:
        raise UserError(
            f"confidence-data: none of {len(reflected)} questions is left to learn (keep: {params.keep}); raise max_length"
        )
    return short, {"dropped_by_keep_rule": len(chosen) - len(kept), "dropped_too_long": len(rows) - len(short)}


def rationales_of(params: Params, run: Run, store: Store, cases: Sequence[Case]) -> list[str]:
    """Return the rationale of every case from whom `summariser` names."""
    if params.summariser == "none":
        return ["" for _ in cases]
    if params.summariser == "clusters":
        return [from_clusters(case) for case in cases]
    name = str(params.endpoint_model)
    who, parallel = f"{params.summariser} {params.endpoint} {name}", 1
    summarise: Summarise
    if params.summariser == "model":
        summarise = from_model(Path(name), params.rationale_tokens)
    else:
        summarise, parallel = Endpoint(str(params.endpoint), name, params.timeout, params.retries), params.parallel
    return summarise_all(cases, summarise, store, who, parallel, run.progress(len(cases), "rationales"))


def _row(params: Params, one: Reflected, kept: Cluster, rationale: str) -> dict[str, Any]:
    """Return a conversation that ends with the confidence, and how it came about."""
    text = one.texts[kept.members[0]]
    found = ANSWER.search(text)
    level = 0 if refuses(kept.answer) else agreement(kept.size, len(one.texts))  # a refusal is never the answer
    chain = text[: found.start()] if found else ""
    response = write_response(kept.answer, rationale, level, chain, led=params.led or bool(found))
    messages = [{"role": "user", "content": one.question.prompt}, {"role": "assistant", "content": response}]
    origin = {"keep_rule": params.keep, "summariser": params.summariser, "is_gold": is_gold(kept, one.question.answers)}
    return {"messages": messages, "c": level, "qid": one.question.qid, **origin}


def length(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> int:
    """Return the tokens of a row, its end included."""
    asked, said = (turn["content"] for turn in row["messages"])
    return len(encode_prompt(tokenizer, asked)) + len(encode_completion(tokenizer, said))


def sample_rows(one: Reflected) -> list[dict[str, Any]]:
    """Return the samples of a question as records."""
    pairs = zip(one.texts, one.answers, strict=True)
    return [{"qid": one.question.qid, "k": k, "text": text, "answer": answer} for k, (text, answer) in enumerate(pairs)]


def cluster_rows(one: Reflected) -> list[dict[str, Any]]:
    """Return the clusters of a question as records; their sizes sum to the number of samples."""
    golds = one.question.answers
    return [
        {"qid": one.question.qid, "members": c.members, "size": c.size, "answer": c.answer, "is_gold": is_gold(c, golds)}
        for c in one.clusters
    ]


def describe(params: Params, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the labels look like, and the rules that made them."""
    levels = [row["c"] for row in rows]
    gold = sum(row["is_gold"] for row in rows) / len(rows)
    counts = {str(level): levels.count(level) for level in range(SCALE + 1)}
    rules = {"keep": params.keep, "summariser": params.summariser, "clusters": "embedding" if params.embedder else "exact match"}
    return {"mean_label": sum(levels) / len(levels) / SCALE, "kept_gold": gold, "labels": counts, **rules}


if __name__ == "__main__":
    run_stage(main)
