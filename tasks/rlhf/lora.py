"""Low-rank adapters (Hu et al. 2021): what a policy may change is a product of two thin matrices for each linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

SCALE = 2
"""alpha / rank, for every rank: 32 / 16 in Lin et al. 2023. So the rank alone is the strength."""


def with_adapter(model: PreTrainedModel, rank: int) -> PeftModel:
    """Return the model frozen, with an adapter on every linear layer but the output layer; at first it changes nothing.

    Raises UserError when `rank` exceeds a side of a layer: the product would then have more parameters than freedom.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings()
    sides = {
        name: min(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }
    narrow = min(sides, key=lambda name: sides[name])
    if rank > sides[narrow]:
        raise UserError(f"lora: rank {rank} exceeds {sides[narrow]}, the shorter side of {narrow}; lower the strength")
    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: PeftModel = get_peft_model(model, config)
    return adapted


def merged(model: PeftModel) -> PreTrainedModel:
    """Return the plain model with the adapter added to its weights; it computes what the adapted one did, up to rounding."""
    plain: PreTrainedModel = model.merge_and_unload()
    return plain
