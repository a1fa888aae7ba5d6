"""What a run shows of a stage on Prefect's page: scores with their change, plots, progress, where the outs lie; and the summary.

The page is a view: whatever goes wrong here, the stage is unharmed, so a lost server or an odd plot is a warning in the log.
Keys stay the same from run to run (`sft-scores`), so Prefect keeps a history of each.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows.planning.graph import Out, RunResult, Stage
from flows.planning.history import FOLDER
from flows.show import headline
from flows.watching.addresses import Remote, hashes

LINES = 8
"""A plot with more lines than this shows the first ones and says so."""

T = TypeVar("T")
Scores = dict[str, float]


class Page:
    """Prefect's page, for as long as there is a server. Whatever goes wrong with it, the stages are unharmed."""

    def __init__(self) -> None:
        """Expect a server."""
        self.lost = False

    def show(self, what: str, make: Callable[[], T]) -> T | None:
        """Return what `make` returns; a failure is a warning in the log of the current run, a lost server ends all showing."""
        if self.lost:
            return None
        try:
            return make()
        except httpx.NetworkError as error:
            self.lost = True
            get_run_logger().warning("the Prefect server cannot be reached any more (%s); the stages go on without it", error)
        except (httpx.HTTPError, OSError, ValueError) as error:
            get_run_logger().warning("%s cannot be shown: %s: %s", what, type(error).__name__, error)
        return None

    def links(self, make: Callable[[], str]) -> None:
        """Show, on the flow run's page, where it leads."""
        self.show("the links", lambda: create_markdown_artifact(make(), key="links", description="Report and storage of the run"))

    def summary(self, result: RunResult) -> None:
        """Show how every stage ended, on the flow run's page."""
        rows = summary_rows(result)
        self.show("the summary", lambda: create_table_artifact(rows, key="summary", description="Every stage of the run"))


class Shown:
    """What one run of one stage shows; made before the stage starts, because DVC removes the old outs."""

    def __init__(self, page: Page, root: Path, stage: Stage, remote: Remote | None = None) -> None:
        """Read the scores of the last run; nothing is shown yet. `remote` is where `dvc push` brings the outs."""
        self.page, self.root, self.stage, self.remote = page, root, stage, remote
        self.before = scores_of(root, stage) or _read_scores(self._kept())
        self._progress: Any = None

    def progress(self, percent: float, note: str) -> None:
        """Move the stage's progress bar; the first call makes it."""

        def move() -> Any:
            if self._progress is None:
                return create_progress_artifact(percent, key=key(self.stage.name, "progress"), description=note)
            return update_progress_artifact(self._progress, percent, description=note)

        self._progress = self.page.show("progress", move) or self._progress

    def outs(self) -> None:
        """Show the scores against those of the last run, the plots, and where the outs lie."""
        if self._progress is not None:
            self.progress(100.0, "done")
        if after := scores_of(self.root, self.stage):
            self._scores(after)
        for out in self.stage.outs:
            if out.kind == "plot":
                self._plot(out)
        table, where = outs_table(self.root, self.stage, self.remote), f"Where the outs of `{self.stage.name}` lie"
        self.page.show("outs", lambda: create_markdown_artifact(table, key=key(self.stage.name, "outs"), description=where))

    def _scores(self, after: Scores) -> None:
        """Show the scores, and keep them for the next comparison."""
        rows, title = score_rows(after, self.before), f"Scores of `{self.stage.name}` and their change against the last run"
        self.page.show("scores", lambda: create_table_artifact(rows, key=key(self.stage.name, "scores"), description=title))
        self._kept().parent.mkdir(parents=True, exist_ok=True)
        self._kept().write_text(json.dumps(after), encoding="utf-8")

    def _plot(self, out: Out) -> None:
        """Show a plot as Markdown with the picture in it: below an image artifact Prefect prints its whole address."""

        def make() -> Any:
            picture = f"![{out.path}]({data_uri(draw(self.root / out.path, out.plot))})"
            return create_markdown_artifact(picture, key=key(self.stage.name, name), description=f"`{out.path}`")

        stem = Path(out.path).stem
        name = "plot" if stem == self.stage.name else f"plot-{stem}"
        self.page.show(out.path, make)

    def _kept(self) -> Path:
        """Return where the scores are kept for a run whose predecessor was killed after DVC had removed its outs."""
        return self.root / FOLDER / "scores" / f"{self.stage.name}.json"


def key(stage: str, what: str) -> str:
    """Return an artifact key as Prefect wants it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{stage}-{what}".lower()).strip("-")


def scores_of(root: Path, stage: Stage) -> Scores:
    """Return every number in the metric outs of a stage that are there, nested ones as `a.b`."""
    found: Scores = {}
    for out in stage.outs:
        if out.kind == "metric":
            found.update(_read_scores(root / out.path))
    return found


def score_rows(now: Mapping[str, float], before: Mapping[str, float]) -> list[dict[str, str]]:
    """Return the rows of a score table: each score now, in the last run, and the difference; scores that went away too."""
    rows = []
    for name in [*now, *(name for name in before if name not in now)]:
        change = f"{now[name] - before[name]:+.4g}" if name in now and name in before else "new" if name in now else "gone"
        rows.append({"score": name, "now": number(now.get(name)), "last run": number(before.get(name)), "change": change})
    return rows


def number(value: float | None) -> str:
    """Write a score with four significant digits, whole numbers whole; nothing for none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def draw(path: Path, plot: Mapping[str, Any]) -> bytes:
    """Draw a plot out (CSV) as PNG: column `y` over column `x`, a line for each value of a text column.

    `x` and `y` are those of dvc.yaml, else the first two columns of numbers. Raises ValueError when there are no such columns.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    x, y = _axes(path, rows, plot)
    lines = _lines(rows, x, y)
    figure = Figure(figsize=(7.2, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, points in list(lines.items())[:LINES]:
        axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 40 else "", markersize=3.5, linewidth=1.6, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(path.stem if len(lines) <= LINES else f"{path.stem} (first {LINES} of {len(lines)} lines)", fontsize=11)
    axes.grid(alpha=0.25)
    if all(row[x].isdigit() for row in rows):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a PNG as an address that carries it: the page needs no second server for it."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def outs_table(root: Path, stage: Stage, remote: Remote | None = None) -> str:
    """Return a Markdown table of a stage's outs: where each lies, its size, and where it is in the remote once pushed."""
    name = plain(stage.name)
    head = f"Outs of {name} under {plain(str(root.resolve()))}; the log is .temper/logs/{name}.log."
    columns = ["out", "kind", "size", *(["in the DVC remote, once pushed"] if remote else [])]
    known = hashes(root, stage) if remote else {}
    rows = []
    for out in stage.outs:
        cells = [f"[{plain(out.path)}]({(root / out.path).resolve().as_uri()})", out.kind, _size(root / out.path)]
        if remote:
            cells.append(remote.link(known[out.path]) if out.path in known else "")
        rows.append(cells)
    table = [columns, ["---"] * len(columns), *rows]
    return "\n".join([head, "", *(f"| {' | '.join(cells)} |" for cells in table)])


def plain(text: str) -> str:
    """Return text that is itself in Markdown and in HTML: no tag, link, cell or code begins or ends in it."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(text))


def summary_rows(result: RunResult) -> list[dict[str, str]]:
    """Return one row a stage: its state, seconds, and first scores, or why it did not finish."""
    rows = []
    for row in result.rows:
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        rows.append({"stage": row.stage, "state": row.state, "seconds": seconds, "scores": headline(row)})
    return rows


def _read_scores(path: Path) -> Scores:
    try:
        return dict(_numbers(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return {}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a JSON value with their dotted names."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _numbers(item, f"{name}.{inner}" if name else str(inner))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{name}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _axes(path: Path, rows: Sequence[Mapping[str, str]], plot: Mapping[str, Any]) -> tuple[str, str]:
    columns = list(rows[0]) if rows else []
    numeric = [name for name in columns if all(_is_number(row[name]) or not row[name] for row in rows)]
    x = str(plot.get("x", next(iter(numeric), "")))
    y = str(plot.get("y", next((name for name in numeric if name != x), "")))
    if x not in numeric or y not in numeric:
        raise ValueError(f"{path}: no columns of numbers '{x}' and '{y}' among {columns}")
    return x, y


def _lines(rows: Sequence[Mapping[str, str]], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Group the points by the text columns of the table and by `seed`; a row without x or y is left out."""
    groups = [name for name in rows[0] if name == "seed" or not all(_is_number(row[name]) or not row[name] for row in rows)]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row[x] and row[y]:
            lines.setdefault(" ".join(row[name] for name in groups), []).append((float(row[x]), float(row[y])))
    return lines


def _size(path: Path) -> str:
    if not path.exists():
        return "missing"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    told = f"{size / 2**20:,.1f} MB" if size >= 2**20 else f"{size / 2**10:,.1f} kB"
    return told if path.is_file() else f"{len(files)} files, {told}"
