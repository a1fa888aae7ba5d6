"""Says in the first person why one hesitates: the rationale of a question whose answers disagree.

An external language model writes it, through an OpenAI-compatible endpoint or from a folder; for Atlas a sentence that names the
competing answers stands in for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime import endpoint
from tasks.runtime.confidence import name_clusters
from tasks.runtime.endpoint import KEY as KEY
from tasks.runtime.endpoint import Malformed, write_all
from tasks.runtime.endpoint import Store as Store
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

TASK = (
    "Below are a question, the answer you chose, and other answers you gave when asked again, with the share of each. "
    "Write one to three sentences in the first person that say which gaps in your knowledge make you hesitate between these "
    "answers, and name the other answers. Reply in the form `Reason: ...` and give no number."
)


@dataclass(frozen=True)
class Case:
    """A question whose answers are to be reflected on."""

    question: str
    kept: str
    others: Sequence[tuple[str, float]]
    """Competing answers and their share of the samples, largest first."""

    def told(self) -> str:
        """Return the case as the text that a language model is given."""
        others = "; ".join(f"{answer} ({share:.0%})" for answer, share in self.others) or "none"
        return f"{TASK}\n\nQuestion: {self.question}\nChosen answer: {self.kept}\nOther answers: {others}"


Summarise = Callable[[Case], str]


def from_clusters(case: Case) -> str:
    """Name the competing answers: deterministic, a stand-in for the external model."""
    return name_clusters(case.kept, [answer for answer, _ in case.others])


def reason(text: str) -> str:
    """Return what follows `Reason:` in a reply, on one line. Raises Malformed when it is blank."""
    said = " ".join(text.rpartition("Reason:")[2].split())
    if not said:
        raise Malformed("a reply without text")
    return said


class Endpoint(endpoint.Endpoint):
    """A chat model that is asked for rationales."""

    def __call__(self, case: Case) -> str:
        """Return the model's rationale. Raises UserError when it refuses, or still fails after all attempts."""
        return self.ask([{"role": "user", "content": case.told()}], reason)


def from_model(folder: Path, max_new_tokens: int) -> Summarise:
    """Return the summariser that asks the model in `folder`, which takes the likeliest words."""
    from tasks.runtime.generate import generate
    from tasks.runtime.models import load_causal, on_device

    model, tokenizer = load_causal(folder)
    on_device(model)

    def summarise(case: Case) -> str:
        prompts = [case.told()]
        text = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=0, seed=0, batch_size=1)[0][0]
        try:
            return reason(text)
        except Malformed as error:
            raise UserError(f"{folder}: gives {error} for {case.question!r}; choose a model that follows instructions") from None

    return summarise


def summarise_all(
    cases: Sequence[Case], summarise: Summarise, store: Store, who: str, parallel: int, progress: Progress
) -> list[str]:
    """Return the rationale of every case, `parallel` at once; the first failure is raised when those under way have ended."""
    return write_all(cases, summarise, store, who, parallel, progress)
