"""How well models' stated confidence fits what they get right, and their rationale what they are torn between.

Measured on questions of which no stage has seen the entity, one model or several side by side, beside two things that need no
tuning: the untuned model's agreement with itself, and a linear probe of its hidden state. Where the probe finds nothing, a model
of this kind cannot know how sure to be, and a null result means little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from tasks.evaluate.calibration.ranking import auroc
from tasks.evaluate.confidence_scores import (
    Asked,
    ClusterRecord,
    Clusters,
    by_source,
    faithfulness,
    measure,
    self_consistency,
    stated,
)
from tasks.evaluate.linear_probe import fit_logistic, last_states, logits_of
from tasks.runtime.confidence import Question, parse_response
from tasks.runtime.generate import generate
from tasks.runtime.models import encode_prompt, load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNTUNED = "untuned"
"""Name of the untuned model's agreement with itself among the models."""
SEEN = ("rl", "valid")
"""Questions from which the probe learns: their answers stand beside them."""


class Params(StageParams):
    """How a model is asked, and what counts as a competing answer."""

    section: ClassVar[str] = "sayself-eval"
    seed: int = Field(0, ge=0)
    """Seed of the samples."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""
    samples: int = Field(1, ge=1, le=256)
    """Responses to each question; one where the temperature is 0, for all would be equal."""
    temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature; 0 takes the likeliest token."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest response, in tokens."""
    generate_batch: int = Field(256, ge=1)
    """Responses at once: memory against speed. Changes a number only by rounding, but bits all the same."""
    competing: float = Field(0.05, gt=0, le=1)
    """Least share of the untuned model's answers with which one is a competing answer."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Params:
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples: at temperature 0 all are equal; raise the temperature, or ask once")
        return self


def main(params: Params, run: Run, *, base: In, models: In, sets: In, out: Out, scores: Out, histogram: Out) -> None:
    """Measure `models` (a model folder, or a folder of them) on `sets`/test.jsonl; write their responses to `out`/NAME.jsonl.

    `base` is the untuned model that the samples in `sets` are from.
    """
    set_determinism(params.seed, params.threads)
    clusters, questions = read_clusters(sets / "clusters.jsonl"), read_records(sets / "test.jsonl", Question)
    asked = {UNTUNED: self_consistency(questions, clusters)}
    asked |= {name: ask(params, run, place, questions) for name, place in places(models).items()}
    with publish(out) as draft:
        for name, responses in asked.items():
            write_records(draft / f"{name}.jsonl", map(_record, responses))
    found = {name: scored(responses, clusters, params.competing) for name, responses in asked.items()}
    publish_curve(histogram, [{"model": name, **row} for name, given in asked.items() for row in stated(given, clusters)])
    publish_json(scores, {"probe_auroc": probe(base, sets, clusters, params), "models": found})


def _record(one: Asked) -> dict[str, Any]:
    return {"qid": one.question.qid, "text": one.text, **asdict(one.said)}


def places(models: Path) -> dict[str, Path]:
    """Return the model folders by name: the folder itself, or those in it. Raises UserError when there are none."""
    if (models / "config.json").is_file():
        return {models.name: models}
    found = {place.parent.name: place.parent for place in sorted(models.glob("*/config.json"))}
    if not found:
        raise UserError(f"{models}: neither a model folder nor a folder of them; run sayself-sft or sayself-rl first")
    return found


def ask(params: Params, run: Run, folder: Path, questions: Sequence[Question]) -> list[Asked]:
    """Return the model's responses to the questions."""
    model, tokenizer = load_causal(folder)
    texts = respond(on_device(model), tokenizer, params, run, [question.prompt for question in questions])
    return [Asked(q, text, parse_response(text)) for q, given in zip(questions, texts, strict=True) for text in given]


def respond(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, params: Params, run: Run, prompts: Sequence[str]
) -> list[list[str]]:
    """Return `samples` responses to each prompt."""
    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=params.seed,
        batch_size=params.generate_batch,
        progress=run.progress(params.samples * len(prompts), "responses"),
    )


def scored(asked: Sequence[Asked], clusters: Clusters, competing: float) -> dict[str, float]:
    """Return all scores of one model."""
    return {**measure(asked), **by_source(asked), **faithfulness(asked, clusters, competing)} if asked else {}


def probe(base: Path, sets: Path, clusters: Clusters, params: Params) -> float | None:
    """Return how well a linear probe of the untuned model's hidden state tells whether its commonest answer is right.

    The AUROC on the test questions, of a probe fitted to those of `SEEN`; None where one of the two has only right or only wrong
    answers.
    """
    learned = [question for name in SEEN for question in read_records(sets / f"{name}.jsonl", Question)]
    known = {name: self_consistency(given, clusters) for name, given in _both(learned, sets).items()}
    right = {name: [one.right[0] for one in given] for name, given in known.items()}
    if any(len(set(flags)) < 2 for flags in right.values()):
        return None
    model, tokenizer = load_causal(base)
    states = {
        name: last_states(
            on_device(model), [encode_prompt(tokenizer, one.question.prompt) for one in given], params.generate_batch
        )
        for name, given in known.items()
    }
    return float(auroc(logits_of(states["test"], fit_logistic(states["seen"], right["seen"])), right["test"]))


def _both(learned: Sequence[Question], sets: Path) -> Mapping[str, Sequence[Question]]:
    return {"seen": learned, "test": read_records(sets / "test.jsonl", Question)}


def read_clusters(path: Path) -> Clusters:
    """Return the clusters of every question by its qid."""
    found: dict[str, list[ClusterRecord]] = {}
    for record in read_records(path, ClusterRecord):
        found.setdefault(record.qid, []).append(record)
    return found


if __name__ == "__main__":
    run_stage(main)
