"""Models and tokenizers as plain Hugging Face folders: loaded with checks, saved the same way by every stage.

Safetensors only, no remote code. A tokenizer and a model that disagree are refused before any training.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that run code when they are opened the usual way."""
HUB_NAME = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")


def load_causal(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in the dtype of its weights, and its tokenizer. Raises UserError for an unusable folder."""
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    tokenizer = load_tokenizer(folder)
    model, missing = load_weights(AutoModelForCausalLM, folder)
    if missing:
        raise UserError(f"{folder}: incomplete model folder: it has no weights for {', '.join(missing)}")
    check_vocabulary(folder, model, tokenizer)
    return model, tokenizer


def load_reward(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a reward model (a sequence classifier with one output) and its tokenizer. Raises UserError if it was never trained."""
    from transformers import AutoModelForSequenceClassification

    check_folder(folder)
    tokenizer = load_tokenizer(folder)
    model, missing = load_weights(AutoModelForSequenceClassification, folder, num_labels=1)
    if missing:
        raise UserError(
            f"{folder}: not a reward model: it has no weights for {', '.join(missing)}; train it with the stage reward"
        )
    check_vocabulary(folder, model, tokenizer)
    text_config = model.config.get_text_config()
    if text_config.pad_token_id is None:
        text_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_weights(kind: Any, folder: Path, **more: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model of an Auto class, in the dtype of its weights; return it and the names of the weights its folder lacks.

    Raises UserError for a damaged file, and for weights that do not have the shapes of config.json.
    """
    from safetensors import SafetensorError

    asked = {"dtype": "auto", "attn_implementation": "sdpa", "ignore_mismatched_sizes": True, "output_loading_info": True}
    asked |= {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    try:
        model, found = kind.from_pretrained(folder, **asked, **more)
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged model.safetensors: {error}; copy or make the folder again") from None
    if wrong := sorted(str(name[0]) for name in found["mismatched_keys"]):
        raise UserError(f"{folder}: weights and config.json disagree about the shape of {', '.join(wrong)}")
    return model, sorted(found["missing_keys"])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder. Raises UserError when there is none, or it lacks an end or padding token.

    It is told that its files are local: else what `save_pretrained` writes would say whether this process may ask the hub.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no tokenizer can be loaded from it: {error}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer has no end-of-sequence token; add eos_token to tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is a whole model folder with safetensors weights."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: incomplete model folder: config.json is missing")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index}: damaged index: {error}") from None
        if outside := [name for name in shards if Path(str(name)).name != name]:
            raise UserError(f"{index}: names files outside its folder ({', '.join(map(str, outside))}): it is not to be trusted")
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: incomplete model folder: {', '.join(missing)} named in {index.name} but missing")
    elif not (folder / "model.safetensors").is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise UserError(
                f"{folder}: holds pickled weights ({', '.join(pickles)}), which can run code when opened and are refused; "
                "convert them with save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(f"{folder}: incomplete model folder: model.safetensors is missing")


def check_vocabulary(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError when the tokenizer can produce ids for which the model has no embedding."""
    rows = model.config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"{folder}: tokenizer and model disagree: {len(tokenizer)} tokens but {rows} embedding rows; "
            "use the tokenizer the model was trained with"
        )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the token ids of a prompt, ready to be continued: through the chat template if there is one, else as plain text.

    A special token's text in a prompt is text: it neither ends the user's turn nor begins another.
    """
    if not tokenizer.chat_template:
        return encode_text(tokenizer, prompt, add_special_tokens=True)
    parts = _parts(tokenizer, prompt)
    names = {f"\ue000{number}\ue001": part for number, part in enumerate(parts) if number % 2}
    safe = "".join(f"\ue000{number}\ue001" if number % 2 else part for number, part in enumerate(parts))
    turns = [{"role": "user", "content": safe}]
    if not names:
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        return list(ids)
    text = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    pieces = [piece for piece in re.split("(\ue000\\d+\ue001)", text) if piece]
    encoded = [
        _without_meaning(tokenizer, names[piece]) if piece in names else tokenizer(piece, add_special_tokens=False)["input_ids"]
        for piece in pieces
    ]
    return [token for ids in encoded for token in ids]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Return the token ids of an answer as it follows its prompt, with exactly one end-of-sequence token.

    After a plain-text prompt the two are parted by one space: the tokenizer's own prefix space where it writes one
    (SentencePiece style), else a space in the text (byte-level BPE style).
    """
    if not tokenizer.chat_template:
        completion = completion.lstrip(" ") if _writes_prefix_space(tokenizer) else " " + completion.lstrip(" ")
    return [*encode_text(tokenizer, completion), tokenizer.eos_token_id]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the token ids of a text from a record: what looks like a special token in it is text like any other.

    `add_special_tokens` puts in front, or behind, what the tokenizer puts there by itself.
    """
    ids = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    parts = _parts(tokenizer, text)
    if len(parts) == 1:
        return ids
    found = [
        _without_meaning(tokenizer, part) if number % 2 else encode_text(tokenizer, part) for number, part in enumerate(parts)
    ]
    bare = [token for part in found for token in part]
    if not add_special_tokens:
        return bare
    frame = list(tokenizer("")["input_ids"])
    ends = [tokenizer.eos_token_id] if frame[-1:] == [tokenizer.eos_token_id] else []
    return [*frame[: len(frame) - len(ends)], *bare, *ends]


def holds_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Tell whether a text holds the text of a special token."""
    return len(_parts(tokenizer, text)) > 1


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Cut a text at its special tokens: text and special token in turn, a text first and last."""
    return re.split(f"({_special(tokenizer, len(tokenizer))})", text)


@functools.lru_cache(maxsize=16)
def _special(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """Return a pattern of all special tokens; `tokens` is their tokenizer's size, so that a token added later is not missed."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return "|".join(map(re.escape, texts)) or r"(?!)"


def _without_meaning(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """Return the ids of a special token's text, as text; cut behind its first letter where the vocabulary has the word."""
    ids = list(tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    meant = tokenizer.convert_tokens_to_ids(token)
    if meant not in ids or meant == tokenizer.unk_token_id:
        return ids
    return [piece for part in (token[0], token[1:]) if part for piece in tokenizer(part, add_special_tokens=False)["input_ids"]]


def _writes_prefix_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    first = tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    return any(token.startswith("\u2581") for token in tokenizer.convert_ids_to_tokens(first))


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: dict[str, Any],
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model folder that `from_pretrained` loads, with a card that tells the facts of `card` (no times, no paths).

    `state` holds the weights where the model itself has only its share of them (ZeRO-3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    write_card(folder, card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `README.md`: a model card in the hub's format. `card` holds `stage`, `summary`, and what a reader should know."""
    facts = "\n".join(f"| {key} | {value} |" for key, value in card.items() if key not in ("stage", "summary"))
    text = f"---\nlibrary_name: transformers\ntags: [temper, {card['stage'].split('@')[0]}]\n---\n\n"
    text += f"# {card['stage']}\n\n{card['summary']}\n\n| | |\n|---|---|\n{facts}\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def preload() -> None:
    """Import what loading and sampling a Llama needs, before forking: paid once, and importing computes nothing."""
    for module in (
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        "tasks.runtime.cache",
    ):
        importlib.import_module(module)


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the accelerator, if this machine has one, and return it. Never call it before forking."""
    import torch

    torch.nn.Module.to(model, torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))
    return model


def derive(seed: int, *place: int) -> int:
    """Return a 32-bit seed for one place in a run (an iteration, an epoch), unrelated to those of all other places."""
    import numpy

    return int(numpy.random.SeedSequence([seed, *place]).generate_state(1)[0])


def set_determinism(seed: int, threads: int) -> None:
    """Seed Python, NumPy and torch, fix the number of threads and ask for deterministic kernels: same inputs, same bits."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
