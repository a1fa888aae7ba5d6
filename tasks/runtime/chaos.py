"""Named points at which a process can be made to die, so that tests show what dying there costs: nothing that was done.

    TEMPER_FAIL_AT=POINT[@WHAT][:N]   die, as of `kill -9`, the N-th time (by default the first) that a process comes to POINT

`WHAT` narrows a point down to one file or stage. A process counts for itself; without the variable a point costs nothing.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter

FAIL_AT = "TEMPER_FAIL_AT"
POINTS = {
    "lease": "a stage has just taken its lease",
    "publish": "an out is written beside its place and not yet moved there",
    "publish.moving": "what stood in the place of an out is removed, the out is not there yet",
    "published": "an out is in its place, nothing that follows is done",
    "checkpoint": "a checkpoint is written and not yet sealed",
    "checkpoint.unmarked": "a checkpoint is in its place, its marker is missing",
    "checkpoint.sealed": "a checkpoint counts, nothing that follows is done",
    "step": "an optimizer step, iteration or round is done and in no checkpoint",
    "topk": "positions of a top-k file are written, their checksum is not",
    "done": "every out of a stage is published, DVC has not been told",
    "push": "an out is about to be sent to the remote",
}
_SETTING = re.compile(r"(?P<point>[a-z.]+)(?:@(?P<what>[^:]+))?(?::(?P<number>[1-9]\d*))?")
_reached: Counter[str] = Counter()


def reach(point: str, what: str = "") -> None:
    """Be at `point` with `what`: the end of this process, if it was asked for."""
    assert point in POINTS
    if not (asked := os.environ.get(FAIL_AT)):
        return
    setting = _SETTING.fullmatch(asked)
    if setting is None or setting["point"] not in POINTS:
        raise ValueError(f"{FAIL_AT}={asked}: must be POINT[@WHAT][:N], where POINT is one of {', '.join(POINTS)}")
    if setting["point"] != point or (setting["what"] or what) != what:
        return
    _reached[point] += 1
    if _reached[point] == int(setting["number"] or 1):
        os.kill(os.getpid(), signal.SIGKILL)
