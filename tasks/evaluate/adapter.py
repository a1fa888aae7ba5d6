"""A Temper model as lm-eval sees one: its log-likelihoods and texts come from our scorer and our sampler.

Imports lm-eval, which is an extra, so import this module only where it is known to be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tasks.evaluate.loglikelihood import Scored, encode_texts, loglikelihoods, score_tokens, start_token
from tasks.runtime.generate import generate_ids
from tasks.runtime.models import derive
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FIRST_TOKENS = 16
"""Tokens drawn before the first look for a stop text; each look comes after twice as many, so little is computed twice."""
DEFAULT_NEW_TOKENS = 256
"""Longest text where a task does not say."""


class Adapter(TemplateLM):
    """A loaded model and its tokenizer. No chat template is applied, as is lm-eval's default."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, seed: int) -> None:
        """Wrap a model; `batch_size` counts requests side by side, `seed` is that of texts a task wants sampled."""
        super().__init__()
        self.model, self.tokenizer, self.batch_size, self.seed = model, tokenizer, batch_size, seed
        self.context: int = model.config.get_text_config().max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        """The end mark."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return start_token(self.tokenizer)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text."""
        if add_special_tokens is None:
            return encode_texts(self.tokenizer, [string])[string]
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[Scored]:
        """Score continuations; see `loglikelihoods`."""
        return loglikelihoods(self.model, self.tokenizer, [request.args for request in requests], batch_size=self.batch_size)

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any) -> list[Scored]:
        return score_tokens(self.model, [(context, rest) for _, context, rest in requests], batch_size=self.batch_size)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, each token once, given as much of its text as the model takes."""
        asked = {"prefix_token": self.prefix_token_id, "max_seq_len": self.context, "context_len": 1}
        texts = [request.args[0] for request in requests]
        ids = encode_texts(self.tokenizer, texts)
        windows = [[make_disjoint_window(pair) for pair in get_rolling_token_windows(ids[text], **asked)] for text in texts]
        scored = iter(score_tokens(self.model, [pair for text in windows for pair in text], batch_size=self.batch_size))
        return [sum(next(scored)[0] for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return a text for every (context, options), cut where the first of its stop texts begins.

        Raises UserError for an option that our sampler does not have, or texts that leave no room for a context.
        """
        texts = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda number: repr(requests[number].args[1]))
        for _, alike in groupby(order, key=lambda number: repr(requests[number].args[1])):
            numbers = list(alike)
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._write(contexts, requests[numbers[0]].args[1]), strict=True):
                texts[number] = text
        return texts

    def _write(self, contexts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return texts drawn with the same options; a context loses from the left what would leave too little room."""
        kwargs = dict(normalize_gen_kwargs(dict(options), DEFAULT_NEW_TOKENS))
        steps, temperature = kwargs.pop("max_gen_toks"), kwargs.pop("temperature", 0.0)
        kwargs.pop("do_sample", None)  # told by the temperature
        stops = handle_stop_sequences(kwargs.pop("until", None), eos=self.tokenizer.decode(self.eot_token_id))
        if kwargs:
            raise UserError(
                f"a task asks for {', '.join(sorted(kwargs))}, which our sampler does not have; drop it from the task"
            )
        if steps >= self.context:
            raise UserError(
                f"a task asks for texts of {steps} tokens and the model's context is {self.context}; "
                "lower max_gen_toks in the task's generation_kwargs"
            )
        ids = encode_texts(self.tokenizer, contexts)
        prompts = [ids[context][-(self.context - steps) :] or [self.prefix_token_id] for context in contexts]
        drawn = self._draw(prompts, steps, temperature, stops)
        return [postprocess_generated_text(self._decode(text), stop=stops, think_end_token=None) for text in drawn]

    def _draw(self, prompts: Sequence[list[int]], steps: int, temperature: float, stops: Sequence[str]) -> list[list[int]]:
        """Draw up to `steps` tokens for each prompt, and hardly more than it takes to meet a stop text."""
        texts: list[list[int]] = [[] for _ in prompts]
        going, length, tokens = list(range(len(prompts))), 0, FIRST_TOKENS
        while going and length < steps:
            tokens = min(tokens, steps - length)
            drawn = generate_ids(
                self.model,
                self.tokenizer,
                [prompts[number] + texts[number] for number in going],
                max_new_tokens=tokens,
                temperature=temperature,
                seed=derive(self.seed, length),
                batch_size=self.batch_size,
                numbers=going,
            )
            for number, [one] in zip(going, drawn, strict=True):
                texts[number] += one.ids
            ended = {number for number, [one] in zip(going, drawn, strict=True) if one.stop is not None}
            going = [number for number in going if number not in ended and not self._stopped(texts[number], stops)]
            length, tokens = length + tokens, 2 * tokens
        return texts

    def _stopped(self, ids: list[int], stops: Sequence[str]) -> bool:
        text = self._decode(ids)
        return any(stop and stop in text for stop in stops)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
