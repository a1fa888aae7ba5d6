"""Extraction of theorems from Lean files, in MB a second, beside the Lean lexer of Pygments, which only cuts tokens.

On the real files where they are (TEMPER_REAL_DATA), on one made file everywhere, and on texts made to be slow.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pygments.lexers import get_lexer_by_name

from tasks.data.lean.extract import LeanFile, extract

PROOF = "/-- Sums. -/\ntheorem t{i} (x y : ℝ) (h : 0 < x) : x + y ≤ |x| + |y| := by\n" + (
    "  have h₁ := le_abs_self (x + 0 * y) -- the left side\n  linarith [h, h₁, le_abs_self y, mul_pos h h]\n" * 10 + "\n"
)
HOSTILE = {
    "open brackets": "(",
    "stray closing brackets": "(]",
    "comments that never close": "/- ",
    "documentation of nothing": "/-- x -/\n",
    "attributes of nothing": "@[simp]\n",
    "strings": '"a" ',
    "holes in holes": 's!"{',
    "bars": "|x ",
    "namespaces": "namespace A\n",
    "theorems without anything": "theorem\n",
    "open ... in": "open A in\n",
}


def main() -> None:
    """Print the table."""
    made = "".join(PROOF.replace("{i}", str(i)) for i in range(2000))
    texts = {"made": [made]} | real_texts()
    print(f"{'files':26}{'MB':>6}{'extract MB/s':>14}{'Pygments MB/s':>15}{'ratio':>8}")
    for name, files in texts.items():
        size = sum(len(text.encode()) for text in files) / 1e6
        lean = [LeanFile(str(i), text.encode()) for i, text in enumerate(files)]
        ours = size / fastest(lambda lean=lean: extract(lean, "c"), times=7)
        sample = made[:200_000] if name == "made" else "".join(files)[:200_000]
        theirs = (
            len(sample.encode())
            / 1e6
            / fastest(lambda sample=sample: list(get_lexer_by_name("lean4").get_tokens(sample)), times=3)
        )
        print(f"{name:26}{size:6.2f}{ours:14.1f}{theirs:15.2f}{ours / theirs:8.1f}")
    print(f"\n{'1 MB of':26}{'s':>6}{'2 MB, s':>14}{'(linear: twice)':>17}")
    for name, part in HOSTILE.items():
        once, twice = (hostile_seconds(part, megabytes) for megabytes in (1, 2))
        print(f"{name:26}{once:6.2f}{twice:14.2f}")


def real_texts() -> dict[str, list[str]]:
    """Return the real Lean files, by source; empty where there are none."""
    folder = Path(os.environ.get("TEMPER_REAL_DATA", "../shared")) / "data/lean"
    paths = [path for name in ("pnt", "compfiles") if (path := folder / f"{name}.jsonl").exists()]
    return {path.stem: [json.loads(line)["text"] for line in path.open(encoding="utf-8")] for path in paths}


def hostile_seconds(part: str, megabytes: int) -> float:
    """Return the time of one extraction from a text of nothing but `part`."""
    file = LeanFile("A.lean", (part * (megabytes * 1_000_000 // len(part))).encode())
    return fastest(lambda: extract([file], "c"), times=1)


def fastest(work: Callable[[], object], times: int) -> float:
    """Return the shortest processor time of several runs, in seconds."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
