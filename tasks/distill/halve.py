"""Makes a student of its teacher: the same embeddings and every second layer, the first of each pair.

A student must know something before it is distilled, else the test measures learning and not calibration; a teacher's own layers
are the cheapest start there is (Sanh et al. 2019, DistilBERT, section 3). Vocabulary and tokenizer are the teacher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.runtime.models import load_causal, save_model
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Params(StageParams):
    """Which layers a student gets."""

    section: ClassVar[str] = "halve"
    every: int = Field(2, ge=2, le=64)
    """One layer of so many is kept."""


def main(params: Params, run: Run, *, teacher: In, out: Out, scores: Out) -> None:
    """Publish the student to `out` and the sizes of both to `scores`."""
    model, tokenizer = load_causal(teacher)
    before = model.num_parameters()
    halve(model, params.every)
    with publish(out) as draft:
        save_model(model, tokenizer, draft, {"stage": run.stage, "summary": "Some layers of a teacher, not yet distilled."})
    publish_json(scores, {"teacher": before, "student": model.num_parameters(), "layers": model.config.num_hidden_layers})


def halve(model: PreTrainedModel, every: int) -> None:
    """Leave one layer of every so many, in place. Raises UserError for a model without a list of layers, or with too few."""
    import torch

    inner: Any = model.base_model
    layers = inner._modules.get("layers")
    if not isinstance(layers, torch.nn.ModuleList) or len(layers) < every:
        raise UserError("halve: the teacher needs a list `layers` with at least `every` of them, as Llama and its kin have")
    kept: Any = layers[::every]
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number
    inner.layers = kept
    model.config.num_hidden_layers = len(kept)
    if kinds := model.config.to_dict().get("layer_types"):
        model.config.layer_types = kinds[::every]


if __name__ == "__main__":
    run_stage(main)
