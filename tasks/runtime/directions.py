"""A wish as a direction: an angle, the unit vector that scores answers, and the words in which a policy is told of it.

v = (cos a, sin a) weighs helpfulness and verbosity (Wang et al. 2024, Directional Preference Alignment, section 2). Answers are
scored with the exact vector; the system prompt prints its parts as whole percents, whose squares need not sum to one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ATTRIBUTES = ("helpfulness", "verbosity")
"""What the two parts of a direction weigh, in order."""
SYSTEM = (
    "You are a helpful, respectful, and honest assistant who always responds to the user in a harmless way. "
    "Your response should maximize weighted rating = helpfulness*{} + verbosity*{}"
)
"""The system prompt of the released policy, with places for the two weights."""
SEPARATOR = "\x1e"
"""Stands between the system and the user turn where both must travel as one prompt string; only the first one in it counts."""
SPLIT_TURNS = (
    "{% set turns = messages[0]['content'].split('\\x1e', 1) %}"
    "{% set messages = [{'role': 'system', 'content': turns[0]}, {'role': 'user', 'content': turns[1]}] + messages[1:] %}"
)
"""Put before a chat template, makes two turns of the prompt string again."""


def direction(angle: float) -> tuple[float, float]:
    """Return the unit vector of an angle in degrees: weights of helpfulness and verbosity."""
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def along(angle: float, ratings: Mapping[str, float]) -> float:
    """Return R = v . r: the reward of an answer with these ratings, for whoever wishes `angle`."""
    return math.fsum(weight * ratings[name] for weight, name in zip(direction(angle), ATTRIBUTES, strict=True))


def weights(angle: float) -> tuple[int, int]:
    """Return the direction of an angle in whole percents, as it is printed."""
    helpfulness, verbosity = (round(100 * part) for part in direction(angle))
    return helpfulness, verbosity


def system_prompt(angle: float) -> str:
    """Return the system prompt that tells a policy of the wish."""
    return SYSTEM.format(*weights(angle))


def told(prompt: str, angle: float) -> str:
    """Return a user's prompt with the system prompt of `angle` in front, as one string for a `conditioned` tokenizer."""
    return f"{system_prompt(angle)}{SEPARATOR}{prompt}"


def conditioned(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy of `tokenizer` whose chats begin with the system turn that `told` put in front of the prompt.

    So what samples and what learns takes one prompt string and needs to know nothing of system turns. Raises UserError when
    the chat template loses the weights: many drop the system turn or refuse it.
    """
    if not tokenizer.chat_template:
        raise UserError("the policy's tokenizer has no chat template, so it cannot be told of a direction; add one")
    twin = copy.deepcopy(tokenizer)
    twin.chat_template = SPLIT_TURNS + tokenizer.chat_template
    for angle in (-45.0, -15.0, 45.0):
        _check_rendered(twin, angle)
    return twin


def render(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the text that a model reads before it answers `prompt`."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise UserError(f"the policy's chat template refuses a system turn: {error}; choose a template that takes one") from None
    return str(text)


def _check_rendered(tokenizer: PreTrainedTokenizerBase, angle: float) -> None:
    text, (helpfulness, verbosity) = render(tokenizer, told("?", angle)), weights(angle)
    if f"*{helpfulness} " not in text or f"*{verbosity}" not in text:
        raise UserError(
            f"the policy's chat template drops the system turn: the weights {helpfulness} and {verbosity} are not in {text!r}; "
            "choose a template that keeps it"
        )
