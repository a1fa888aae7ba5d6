"""What the DPA paper claims, and what its specification says may be asked of a policy that an angle steers.

The effects are read from the scores of `dpa-eval`, one number a seed.
"""

from __future__ import annotations

from typing import Any

from tasks.evaluate.ledger import Claim, each_seed

PAPER, STAGE = "DPA", "dpa-eval"


def last(seed: Any) -> Any:
    """Return what was found of the last round."""
    return seed["rounds"][-1]


DPA: tuple[Claim, ...] = (
    Claim(
        paper=PAPER,
        claim="The angle steers verbosity.",
        metric="Spearman's correlation of angle and true verbosity, last round",
        direction="up",
        published="points ordered by angle along the front (figure)",
        stage=STAGE,
        effects=each_seed(lambda seed: float(last(seed)["spearman"])),
    ),
    Claim(
        paper=PAPER,
        claim="The front rises over the rounds.",
        metric="mean true reward along its own angle: last round minus the policy before",
        direction="up",
        published="from (54.5, 73.0) at t = 0 to (54.5, 78.9) at t = 4 (figure)",
        stage=STAGE,
        effects=each_seed(lambda seed: float(last(seed)["front_gain"]["true"])),
    ),
    Claim(
        paper=PAPER,
        claim="One steered policy matches one that was trained for a single direction.",
        metric="true reward at the direction's angle: DPA minus scalar rejection sampling at equal compute",
        direction="up",
        published="not printed",
        stage=STAGE,
        effects=each_seed(lambda seed: float(seed["baselines"]["scalar"]["dpa_lead"])),
    ),
    Claim(
        paper=PAPER,
        claim="A steered policy lies above DPO.",
        metric="true reward at the direction's angle: DPA minus DPO at equal compute, its rate chosen on other prompts",
        direction="up",
        published="about 4.5 helpfulness above DPO at its verbosity (figure)",
        stage=STAGE,
        effects=each_seed(lambda seed: float(seed["baselines"]["dpo"]["dpa_lead"])),
    ),
    Claim(
        paper=PAPER,
        claim="The reward model that selects overstates the gain (our own check).",
        metric="front gain by the reward model minus front gain by the truth, last round",
        direction="up",
        published="not a claim of the paper",
        stage=STAGE,
        effects=each_seed(lambda seed: float(last(seed)["hacking_gap"])),
    ),
)
"""All claims, in the order in which the page shows them."""
