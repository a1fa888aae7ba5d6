"""New Llamas: the shape of a model that is trained from scratch, and its weights at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.runtime.fit.params import FitParams
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


class LlamaParams(FitParams):
    """Shape and training of a Llama from scratch."""

    hidden_size: int = Field(128, ge=8, le=8192)
    """Width of the residual stream."""
    layers: int = Field(6, ge=1, le=128)
    """Transformer blocks."""
    heads: int = Field(4, ge=1, le=128)
    """Attention heads; they share `hidden_size` evenly."""
    intermediate_size: int = Field(384, ge=8, le=65_536)
    """Width of the feed-forward layers."""
    positions: int = Field(512, ge=8, le=131_072)
    """Longest sequence that the model will take, in tokens; at least `max_length`."""


def check_shape(params: LlamaParams) -> None:
    """Raise UserError when the shape contradicts itself."""
    name = params.section
    if params.hidden_size % params.heads or params.hidden_size // params.heads % 2:
        raise UserError(
            f"{name}.hidden_size: {params.hidden_size} is not an even number for each of {params.heads} heads; "
            f"use a multiple of {2 * params.heads}"
        )
    if params.max_length > params.positions:
        raise UserError(f"{name}.max_length: {params.max_length} is more than positions: {params.positions}; raise positions")


def new_llama(params: LlamaParams, tokenizer: PreTrainedTokenizerBase, **more: Any) -> LlamaForCausalLM:
    """Return a Llama with random weights, its input and output embeddings tied; `more` goes into its config."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=params.hidden_size,
            intermediate_size=params.intermediate_size,
            num_hidden_layers=params.layers,
            num_attention_heads=params.heads,
            num_key_value_heads=params.heads,
            max_position_embeddings=params.positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **more,
        )
    )
