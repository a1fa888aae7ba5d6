"""Where a training stage runs: this process, or the `deepspeed` launcher on GPUs, on several hosts or on several processes.

Place is not identity: the global batch is a param, and how it is split over processes is worked out here. fp32 on CPU,
where bf16 is many times slower; bf16 on GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tasks.runtime.params import UserError


@dataclass(frozen=True)
class Place:
    """One process of a training stage among its fellows."""

    processes: int = 1
    """Processes that train together."""
    rank: int = 0
    """Number of this one; rank 0 publishes."""
    zero: int = 0
    """ZeRO stage of deepspeed; 0 is the plain Trainer."""
    gpu: bool = False
    """Whether it trains on a GPU."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints. A clock bounds what is lost and what is spent; the numbers do not depend on it."""

    @property
    def name(self) -> str:
        """What tells places apart whose checkpoints cannot be exchanged."""
        return f"zero{self.zero}x{self.processes}"

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it shows progress, seals checkpoints and publishes."""
        return self.rank == 0

    def split(self, batch_size: int, most: int) -> tuple[int, int]:
        """Return (rows per process and pass, passes per step) of a global batch, with at most `most` rows a pass.

        Raises UserError when the processes cannot share the batch evenly.
        """
        share, rest = divmod(batch_size, self.processes)
        if rest or not share:
            raise UserError(
                f"batch_size: {batch_size} rows cannot be shared evenly by {self.processes} processes; "
                f"use a multiple of {self.processes}, or other processes"
            )
        micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
        return micro, share // micro


def here() -> Place:
    """Return the place of this process, as its launcher put it into the environment."""
    seconds = float(os.environ.get("TEMPER_CHECKPOINT_SECONDS", Place.checkpoint_seconds))
    return Place(checkpoint_seconds=seconds)
