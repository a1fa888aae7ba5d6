"""The log-likelihood of continuations given contexts: what multiple-choice benchmarks are decided by.

The numbers are those of lm-eval (Biderman et al. 2024), request by request; the way there is shorter. Requests that share a
context make one row, context first and the continuations behind it as branches that do not see one another, so the context is
computed once; and only hidden states that predict a continuation go through the output layer, which is most of a small model.
Measured on a 1.4M-parameter Llama: such rows are 1.3 to 1.4 times as fast as a key-value cache of the context spread to its
continuations, which takes two passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Encoded = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation, neither empty."""
Scored = tuple[float, bool]
"""Log-probability of a continuation in nats, and whether each of its tokens is the likeliest."""


@dataclass
class Row:
    """A context and the continuations that share it; the last token of a continuation is only predicted, so not in the row."""

    context: list[int]
    numbers: list[int] = field(default_factory=list)
    """Which requests these are."""
    continuations: list[list[int]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.context) + self.branched

    @property
    def branched(self) -> int:
        """Tokens behind the context."""
        return sum(len(continuation) - 1 for continuation in self.continuations)

    @property
    def longest(self) -> int:
        """Tokens of its longest request, were it alone in a row."""
        return len(self.context) + max(map(len, self.continuations)) - 1

    @property
    def forked(self) -> bool:
        """Whether more than one continuation stands behind the context, so that a plain causal mask would be wrong."""
        return sum(len(continuation) > 1 for continuation in self.continuations) > 1

    def takes(self, continuation: Sequence[int]) -> bool:
        """Whether one more continuation is cheaper here than in a row of its own with the context again.

        What it saves is the context; what it costs is that attention, quadratic in the row, also covers the other branches.
        """
        return len(continuation) == 1 or self.branched + len(continuation) - 1 <= BRANCHED * len(self.context)

    def add(self, number: int, continuation: list[int]) -> None:
        """Put a continuation behind the context."""
        self.numbers.append(number)
        self.continuations.append(continuation)


BRANCHED = 4
"""Most tokens behind a context, as a multiple of its own. Measured from 0.5 to 8 on long endings: within noise,
so it only keeps the rows of an empty context from growing without an end."""


def loglikelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[tuple[str, str]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Scored]:
    """Return, for every (context, continuation), the continuation's summed log-probability and whether it is greedy.

    Equal for every `batch_size` and order of the requests up to rounding; `batch_size` is what lm-eval means by it, requests with
    their contexts side by side, as a measure of memory. `progress` counts requests. Puts the model in eval
    mode. Raises UserError for a continuation that has no token, or more than the model's context.
    """
    return score_tokens(model, encode_pairs(tokenizer, requests), batch_size=batch_size, progress=progress)


def encode_pairs(tokenizer: PreTrainedTokenizerBase, requests: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Encode requests as lm-eval does, all texts in one call.

    White space at the end of a context goes to its continuation. A continuation's tokens are those of both texts together from
    where the context's own tokens end, so that the tokens are those of running text. An empty context is the tokenizer's start
    mark, or where it has none its end mark; a continuation that itself starts with it keeps it as its context.
    """
    start = start_token(tokenizer)
    parted = [_part(context, continuation) for context, continuation in requests]
    ids = encode_texts(tokenizer, (text for context, rest in parted if context for text in (context, context + rest)))
    alone = _encode(tokenizer, (continuation for context, continuation in parted if not context), marks=False)
    pairs: list[Encoded] = []
    for context, continuation in parted:
        if context:
            pairs.append((ids[context], ids[context + continuation][len(ids[context]) :]))
        else:
            after = alone[continuation]
            pairs.append(([start], after[1:] if after[:1] == [start] else after))
    return pairs


def _part(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that stands before a text without a context: the start mark, or where there is none the end mark."""
    start: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return start


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, list[int]]:
    """Return the ids of each text, with the marks that the tokenizer adds unless the text brings its start mark along."""
    mark, once = str(tokenizer.decode(start_token(tokenizer))), list(dict.fromkeys(texts))
    marked = _encode(tokenizer, (text for text in once if text.startswith(mark)), marks=False)
    return marked | _encode(tokenizer, (text for text in once if not text.startswith(mark)), marks=True)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], marks: bool) -> dict[str, list[int]]:
    """Return the ids of each text, with or without the marks that the tokenizer adds; every text is encoded once."""
    once = list(dict.fromkeys(texts))
    return dict(zip(once, tokenizer(once, add_special_tokens=marks)["input_ids"], strict=True)) if once else {}


def score_tokens(
    model: PreTrainedModel, pairs: Sequence[Encoded], *, batch_size: int, progress: Progress | None = None
) -> list[Scored]:
    """Return what `loglikelihoods` does, for requests given as token ids; what is too much is cut from the left of a context."""
    import torch

    context = model.config.get_text_config().max_position_embeddings
    _check(pairs, context)
    found: list[Scored] = [(0.0, False)] * len(pairs)
    model.eval()
    with torch.inference_mode():
        for batch in _batches(_rows(pairs, context, sees_branches(model)), batch_size):
            for number, scored in _score(model, batch):
                found[number] = scored
            if progress:
                progress.advance(sum(len(row.numbers) for row in batch))
    return found


def sees_branches(model: PreTrainedModel) -> bool:
    """Whether a mask of our own says what the model attends to: not with windows, chunks or a state that runs along the row."""
    config = model.config.get_text_config().to_dict()
    local = any(config.get(key) for key in ("sliding_window", "attention_chunk_size"))
    return model.config._attn_implementation in ("sdpa", "eager") and not local and not model._is_stateful


def _check(pairs: Sequence[Encoded], context: int) -> None:
    for number, (_, continuation) in enumerate(pairs):
        if not continuation:
            raise UserError(f"request {number}: its continuation has no token, so there is nothing to score; give it a text")
        if len(continuation) > context:
            raise UserError(
                f"request {number}: its continuation has {len(continuation)} tokens and the model's context is {context}; "
                "shorten it"
            )


def _rows(pairs: Sequence[Encoded], context: int, share: bool) -> list[Row]:
    """Put requests that share a context in one row as far as that is cheaper; rows come longest first."""
    rows: list[Row] = []
    last: dict[tuple[int, ...], Row] = {}
    for number, (before, continuation) in sorted(enumerate(pairs), key=lambda item: len(item[1][1])):
        cut = before[-(context + 1 - len(continuation)) :]
        row = last.get(tuple(cut))
        if row is None or not (share and row.takes(continuation)):
            row = last[tuple(cut)] = Row(cut)
            rows.append(row)
        row.add(number, continuation)
    return sorted(rows, key=lambda row: (row.forked, -row.length))


def _batches(rows: Sequence[Row], batch_size: int) -> Iterator[list[Row]]:
    """Yield rows of like length, those that need a mask apart from others, a row whole.

    A batch has no more tokens than `batch_size` requests of its longest would have, each with its context: four choices of one
    letter cost what one does, so that sixteen questions go together where a batch of sixteen requests would hold four.
    """
    batch: list[Row] = []
    longest = 0
    for row in rows:
        longest = max(longest, row.longest)
        if batch and ((len(batch) + 1) * batch[0].length > batch_size * longest or row.forked != batch[0].forked):
            yield batch
            batch, longest = [], row.longest
        batch.append(row)
    if batch:
        yield batch


def _score(model: PreTrainedModel, rows: Sequence[Row]) -> Iterator[tuple[int, Scored]]:
    """Yield the number and the score of every request of a batch."""
    import torch

    width = max(row.length for row in rows)
    places = [_places(row, number * width) for number, row in enumerate(rows)]
    read: dict[int, int] = {}
    for place in (place for of_row in places for of_request in of_row for place in of_request):
        read.setdefault(place, len(read))
    logits_NV = _logits(model, rows, width, list(read))
    sources = torch.tensor([read[place] for of_row in places for of_request in of_row for place in of_request])
    targets = [token for row in rows for continuation in row.continuations for token in continuation]
    source_M, target_M = sources.to(logits_NV.device), torch.tensor(targets, device=logits_NV.device)
    logprob_M = logits_NV.log_softmax(-1)[source_M, target_M].double().tolist()
    greedy_M = _likeliest(logits_NV, source_M, target_M).tolist()
    start = 0
    for row in rows:
        for number, continuation in zip(row.numbers, row.continuations, strict=True):
            end = start + len(continuation)
            yield number, (sum(logprob_M[start:end]), all(greedy_M[start:end]))
            start = end


def _likeliest(logits_NV: torch.Tensor, source_M: torch.Tensor, target_M: torch.Tensor) -> torch.Tensor:
    """Return whether each target is the likeliest token of its row, of equal ones the first, bool [M].

    An argmax over a whole vocabulary takes as long as a log-softmax, a maximum a twentieth: so only where a target reaches the
    maximum is it asked which token came first.
    """
    greedy_M = logits_NV[source_M, target_M] == logits_NV.amax(-1)[source_M]
    (reached_K,) = greedy_M.nonzero(as_tuple=True)
    greedy_M[reached_K] = logits_NV[source_M[reached_K]].argmax(-1) == target_M[reached_K]
    return greedy_M


def _places(row: Row, first: int) -> list[list[int]]:
    """Return, for every continuation of a row that starts at `first`, the places whose hidden states predict its tokens."""
    places, behind = [], first + len(row.context)
    for continuation in row.continuations:
        length = len(continuation) - 1
        places.append([first + len(row.context) - 1, *range(behind, behind + length)])
        behind += length
    return places


def _logits(model: PreTrainedModel, rows: Sequence[Row], width: int, read: list[int]) -> torch.Tensor:
    """Return the logits [N, V] at the places `read` of the flattened rows, in float32."""
    import torch

    ids, positions, branches = zip(*(_lay(row, width) for row in rows), strict=True)
    ids_BT = torch.tensor(ids, device=model.device)
    read_N = torch.tensor(read, device=model.device)
    layout = {}
    if rows[0].forked:
        mask = _mask(torch.tensor(branches, device=model.device), model.dtype)
        layout = {"attention_mask": mask, "position_ids": torch.tensor(positions, device=model.device)}
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[read_N], *inputs[1:]))
    try:
        logits_NV: torch.Tensor = model(ids_BT, **layout, use_cache=False).logits
    finally:
        hook.remove()
    return logits_NV.float()


def _lay(row: Row, width: int) -> tuple[list[int], list[int], list[int]]:
    """Return a row's ids, positions, and the branch of each token: 0 the context, 1 and on the continuations, -1 the padding."""
    ids, branches = list(row.context), [0] * len(row.context)
    positions = list(range(len(row.context)))
    for branch, continuation in enumerate(row.continuations, 1):
        length = len(continuation) - 1
        ids += continuation[:-1]
        branches += [branch] * length
        positions += range(len(row.context), len(row.context) + length)
    padding = width - len(ids)
    return ids + [0] * padding, positions + [0] * padding, branches + [-1] * padding


def _mask(branch_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to the attention scores [B, 1, T, T]: a token sees the context and its own branch up to itself."""
    import torch

    width = branch_BT.shape[1]
    causal_TT = torch.ones(width, width, dtype=torch.bool, device=branch_BT.device).tril()
    related_BTT = (branch_BT[:, None, :] == 0) | (branch_BT[:, None, :] == branch_BT[:, :, None])
    hidden_BTT = ~(causal_TT & related_BTT)
    return torch.zeros(hidden_BTT.shape, dtype=dtype, device=branch_BT.device).masked_fill_(hidden_BTT, torch.finfo(dtype).min)[
        :, None
    ]
