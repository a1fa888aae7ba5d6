"""The `temper` command. It only reads what was asked, calls the room that does it, and turns the outcome into an exit code.

Nothing heavy is imported before it is needed: the help takes as long as Python and typer do.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.planning.dvcrepo import Pipeline
    from flows.planning.graph import Graph, Step

FAILED, REFUSED, BUSY = 1, 2, 3
CODES = "Exit codes: 0 done, 1 a stage failed, 2 bad input or params, 3 another run holds this checkout, 130 interrupted."
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=CODES, rich_markup_mode="rich"
)
profiles = typer.Typer(no_args_is_help=True, help="Overlays on params.yaml: other sizes, other machines, real models.")
app.add_typer(profiles, name="profile")


class Extra(StrEnum):
    """What is not installed until it is needed or asked for."""

    LEAN = "lean"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"temper {version('temper')}")
        raise typer.Exit


Stages = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STAGE]...", help="As in dvc.yaml, or studies; with all they need. Default: report."),
]
Profile = Annotated[str | None, typer.Option("--profile", metavar="NAME", help="Overlay of `temper profile list`.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One param, as YAML; may be repeated. Paths count from the root."),
]


class Workers(StrEnum):
    """Where the stages of a run run."""

    here = "here"
    pool = "pool"


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", help="Say which Temper this is.", callback=_version)] = False,
) -> None:
    """Temper: from a base language model and raw data to an aligned, measured one.

    First look: [bold]temper run --profile smoke[/]. What would run, and why: [bold]temper plan[/].
    """


@app.command(epilog=CODES)
def plan(
    stages: Stages = None,
    profile: Profile = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
) -> None:
    """Show what would run and why, without writing anything.

    Example: [bold]temper plan evaluate --set raft.iterations=3[/]
    """
    from flows import show

    prepared = prepare(checkout(), stages, profile, sets)
    planned = prepared.plan()
    if as_json:
        show.steps_json(planned, prepared.graph.needs)
    else:
        show.steps(planned)


@app.command(epilog=CODES)
def run(
    stages: Stages = None,
    profile: Profile = None,
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Run the named stages, or all, even if nothing changed.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, metavar="N", help="Stages side by side; default: as the cores allow.")
    ] = None,
    workers: Annotated[Workers, typer.Option("--workers", help="Where stages run: here, or each on the pool of its kind.")] = (
        Workers.here
    ),
) -> None:
    """Run what is stale through Prefect, and nothing else.

    Example: [bold]temper run --profile local-model --set base.path=models/mine --set prompts.path=prompts.jsonl[/]
    """
    from flows import show
    from flows.locks import recover
    from flows.planning.overlay import applied

    root = checkout()
    with held(root), interruptible():
        for notice in recover(root):
            show.warn(notice)
        prepared = prepare(root, stages, profile, sets)
        planned = prepared.plan(prepared.forced(bool(stages)) if force else (), for_run=True)
        if not any(step.stale for step in planned):
            show.say(show.total(planned))
            return _point_to_reports(root, prepared.graph.studies)
        show.steps(planned)
        with applied(root, prepared.params), server_failures():
            from flows.pipeline import run as run_pipeline

            on_workers = workers is Workers.pool
            result = run_pipeline(
                root, prepared.graph, planned, prepared.params, profile=profile, jobs=jobs, on_workers=on_workers
            )
            if not result.failed:
                keep_page_in_step(prepared)
    show.summary(result)
    if result.failed:
        show.warn(f"failed: {', '.join(result.failed)}; what was done is kept, `temper run` goes on from there")
        raise typer.Exit(FAILED)
    return _point_to_reports(root, prepared.graph.studies)


@app.command(epilog=CODES)
def serve() -> None:
    """Keep a Prefect server, a worker and the deployments of this checkout up, until Ctrl-C.

    Example: [bold]temper serve[/], then start the pipeline from the page it names.
    """
    from flows.serve import serve as serve_here

    root = checkout()
    with interruptible(), server_failures():
        serve_here(root)


@app.command(epilog=CODES)
def worker(
    kind: Annotated[str, typer.Argument(help="As stages name it in dvc.yaml, `meta: {worker: gpu}`; cpu for those that do not.")],
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Stages at once; default: one for each GPU, one on kind cpu."),
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Keep no process that has imported torch: 500 MB less, 6 s more a stage.")
    ] = (False),
) -> None:
    """Run stages of one kind in this checkout for a coordinator, until Ctrl-C; PREFECT_API_URL names the server.

    Example: [bold]PREFECT_API_URL=http://coordinator:4200/api temper worker gpu[/]
    """
    root = checkout()
    with interruptible(), server_failures():
        from flows.workers.worker import work

        work(root, kind, limit, cold)


@app.command(epilog=CODES)
def report() -> None:
    """Show where the report is and its headline numbers.

    Example: [bold]temper report[/]
    """
    from flows import show
    from flows.report import STAGE, in_step, read_summary

    root = checkout()
    summary = read_summary(root)
    show.table(("score", "value"), show.numbers(summary.get("headline", summary)))
    if not in_step(root):
        prepared = prepare(root, [STAGE], None, None)
        stale = [step.stage.name for step in prepared.plan() if step.stale]
        if stale:
            show.warn(
                f"the page may be that of another run, and {', '.join(stale)} changed since: `temper run` brings all in step"
            )
        else:
            keep_page_in_step(prepared)
    _point_to_reports(root)


@app.command(epilog=CODES)
def methods() -> None:
    """List the papers, the stages that re-measure them, and where those stand.

    Example: [bold]temper methods[/]
    """
    from flows import show
    from flows.methods import read_methods, state

    root, listed, where = checkout(), read_methods(), {}
    for study in dict.fromkeys(method.study for method in listed):
        prepared = prepare(root, [study] if study else None, None, None)
        where[study] = prepared.graph, {step.stage.name: step for step in prepared.plan()}
    rows = [[method.paper, " -> ".join(method.stages), state(method, *where[method.study])] for method in listed]
    show.table(("paper", "stages", "state"), rows)


@app.command(epilog="Exit codes: 0 all is well or mended, 1 a fault stays.")
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Hash every object of DVC's cache, not only recent ones.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without losing anything.")] = False,
    install: Annotated[Extra | None, typer.Option("--install", help="Install this first: the proof checker, 490 MB.")] = None,
) -> None:
    """Look over the machine and the checkout: versions, disk, locks, checkpoints, cache.

    Example: [bold]temper doctor --deep --repair[/]
    """
    from flows import show
    from flows.doctor import examine, install_lean, mend

    if install is Extra.LEAN:
        install_lean(_root())
    findings = examine(_root(), deep=deep)
    if repair:
        findings = mend(findings)
    show.table(("what", "state", "found", "remedy"), [[f.what, f.state, f.found, f.remedy] for f in findings])
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(FAILED)


Address = Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="The shelf of published models.")]


@app.command(epilog=CODES)
def publish(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model that a stage has made, as data/models/sft.")],
    address: Address,
    name: Annotated[str | None, typer.Option("--name", help="Default: the name of the stage that made it.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Default: the commit, if no tracked file is changed.")] = None,
) -> None:
    """Publish a finished model with its card, scores and provenance; a version is never overwritten.

    Example: [bold]temper publish data/models/average/0 s3://models-of-mine/temper --name aligned[/]
    """
    from flows import show
    from flows.shelf import Shelf, provenance, scores_of
    from tasks.runtime.params import UserError

    root = checkout()
    stage, facts = provenance(root, model)
    commit = str(facts["commit"] or "+")
    if not (name := name or stage):
        raise UserError(f"{model}: dvc.lock names no stage that made it; say --name")
    if not version and commit.endswith("+"):
        raise UserError("there is no commit, or tracked files differ from it, so it cannot name the version; say --version")
    place = Shelf(address).publish(model, name, version or commit[:12], scores_of(root, stage), facts)
    show.say(f"published: {place}")


@app.command(epilog=CODES)
def published(address: Address) -> None:
    """List the published models.

    Example: [bold]temper published s3://models-of-mine/temper[/]
    """
    from flows import show
    from flows.shelf import Shelf

    found = Shelf(address).versions()
    rows = [[one.name, one.version, f"{one.size / 2**20:,.1f} MiB", str(one.provenance.get("stage") or "")] for one in found]
    show.table(("name", "version", "size", "stage"), rows)


@app.command(epilog=CODES)
def pull(
    address: Address,
    name: str,
    version: str,
    folder: Annotated[Path, typer.Argument(help="Where it goes; it appears whole or not at all.")],
) -> None:
    """Bring a published model here, every file checked against its manifest.

    Example: [bold]temper pull s3://models-of-mine/temper aligned 1.0 models/aligned[/]
    """
    from flows import show
    from flows.shelf import Shelf

    found = Shelf(address).pull(name, version, folder)
    show.say(f"{folder}: {found.name} {found.version}, {found.size / 2**20:,.1f} MiB")


@profiles.command("list")
def profile_list() -> None:
    """List the profiles.

    Example: [bold]temper profile list[/]
    """
    from flows import show
    from flows.planning.overlay import profile_names

    show.table(("profile", "what it is for"), [[name, said] for name, said in profile_names(checkout()).items()])


@profiles.command("show")
def profile_show(name: str) -> None:
    """Show what a profile changes in params.yaml.

    Example: [bold]temper profile show smoke[/]
    """
    from flows import show
    from flows.planning.overlay import changes

    show.table(("param", "params.yaml", name), [[key, old, new] for key, old, new in changes(checkout(), name)])


@profiles.command("use")
def profile_use(name: str) -> None:
    """Write a profile into params.yaml for good, so that plain `dvc repro` uses it too.

    Example: [bold]temper profile use smoke[/]
    """
    from flows import show
    from flows.planning.overlay import REPLACED, use

    root = checkout()
    with held(root):
        changed = use(root, name)
    if changed:
        show.say(f"params.yaml now holds profile {name}; back: cp {REPLACED} params.yaml, or git checkout params.yaml")
    else:
        show.say(f"params.yaml held profile {name} already")


@dataclass
class Prepared:
    """A request that has passed every check: nothing has been started or written yet."""

    root: Path
    params: dict[str, Any]
    graph: Graph
    targets: tuple[str, ...]
    pipeline: Pipeline | None = None
    """What the graph was made of, for the first plan, which uses it up: a large one takes seconds to read."""

    def plan(self, force: tuple[str, ...] = (), *, for_run: bool = False) -> list[Step]:
        """Make the plan; for a run, the Prefect server starts as soon as something is known to be stale."""
        from flows.planning.plan import plan as make_plan

        pipeline, self.pipeline = self.pipeline, None
        on_stale = self._start_server if for_run else _nothing
        return make_plan(self.graph, self.root, self.params, self.targets, force, on_stale, pipeline)

    def forced(self, named: bool) -> tuple[str, ...]:
        """Return the stages that `force` means: the targets when stages were named, else all that lead to them too."""
        return self.targets if named else tuple(self.graph.order(self.targets))

    def _start_server(self) -> None:
        from flows.server import start_in_background

        start_in_background(self.root)


def prepare(root: Path, stages: list[str] | None, profile: str | None, sets: list[str] | None) -> Prepared:
    """Read params and pipeline and check every section and input. Raises UserError for whatever is wrong with them."""
    from flows.planning.dvcrepo import open_pipeline
    from flows.planning.graph import graph_of, missing_inputs
    from flows.planning.overlay import effective_params
    from flows.planning.sections import check_sections
    from flows.planning.studies import asked
    from tasks.runtime.params import UserError

    params = effective_params(root, profile, sets or [])
    studies, names = asked(root, stages or [])
    pipeline = open_pipeline(root, params, studies)
    graph = graph_of(pipeline, root, studies)
    default = ["report"] if "report" in graph.own else list(graph.own)
    targets = graph.select(names or default)
    check_sections(graph, root, params, targets, profile, sets or [])
    if missing := missing_inputs(graph, root, targets):
        raise UserError(
            "\n".join(f"stage {name} needs {dep}, which is not there and which no stage makes" for name, dep in missing)
        )
    return Prepared(root, params, graph, targets, pipeline)


@contextmanager
def server_failures() -> Iterator[None]:
    """Exit with 1 and a plain message when the Prefect server is what fails."""
    from flows import show
    from flows.server import ServerError

    try:
        yield
    except ServerError as error:
        show.warn(str(error))
        raise typer.Exit(FAILED) from None


def checkout() -> Path:
    """Return the root of the checkout, with its params.yaml put back if a killed run left an overlay there."""
    from flows import show
    from flows.planning.overlay import recover

    root = _root()
    if notice := recover(root):
        show.warn(notice)
    return root


def _root() -> Path:
    from tasks.runtime.params import UserError

    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise UserError(f"{here}: not inside a Temper checkout: no dvc.yaml and params.yaml here or above; cd there first")


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold the checkout for this run; exit with 3 when another run has it."""
    from flows import show
    from flows.planning.overlay import RUN_LEASE
    from tasks.runtime.lease import Lease
    from tasks.runtime.params import UserError

    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(root / RUN_LEASE, "this checkout"))
        except UserError as busy:
            show.warn(str(busy))
            raise typer.Exit(BUSY) from None
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that everything is put back."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        from flows import show

        show.warn("interrupted; every finished stage is kept, `temper run` goes on from there")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_page_in_step(prepared: Prepared) -> None:
    """Write the report's page again when the report is among the targets and shows something else than its summary.

    It tells of the studies too, so it is written again when one of them has been run.
    """
    from flows.report import STAGE, in_step, write_again

    kept = in_step(prepared.root)
    if kept if prepared.graph.studies else STAGE in prepared.targets and not kept:
        write_again(prepared.root, prepared.graph.stages[STAGE])


def _point_to_reports(root: Path, studies: Sequence[str] = ()) -> None:
    from flows import show
    from flows.report import page_of

    for study in studies or (None,):
        if (page := root / page_of(study)).exists():
            show.say(f"report: {page}")


def _nothing() -> None:
    """Start nothing."""


def main() -> None:
    """Run the command line and exit with its code; typer itself turns Ctrl-C into 130 and a wrong option into 2."""
    try:
        app()
    except _refusals() as error:
        from flows import show
        from flows.redact import redacted

        show.warn(redacted(str(error)))
        sys.exit(REFUSED)


def _refusals() -> type[Exception]:
    """Return the class of the user's mistakes; looked up when an error has come up, for it costs an import."""
    from tasks.runtime.params import UserError

    return UserError


if __name__ == "__main__":
    main()
