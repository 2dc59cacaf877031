"""The command line: each command parses, calls and prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from campaign.launch import Outcome

app = typer.Typer(
    name="campaign",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Campaigns of generative crystal discovery: sample, screen, label with DFT, learn, repeat.",
)

Run = Annotated[Path, typer.Argument(help="The run folder of a campaign, or its campaign.yaml.")]
ConfigFile = Annotated[Path, typer.Argument(help="The campaign.yaml.")]
PoolsOption = Annotated[
    str, typer.Option("--pools", help="Where tasks run: parsl, or processes or threads for small tests.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the final table.")]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="Return at once; the driver goes on, in batch jobs if the site says so."),
]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("campaign.yaml"),
    template: Annotated[
        str, typer.Option(help="quickstart, laptop, parquet, csp or benchmark.")
    ] = "quickstart",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented campaign.yaml to start from."""
    from campaign.templates import write_template

    typer.echo(write_template(file, template, force=force))


@app.command()
def validate(file: ConfigFile) -> None:
    """Check a campaign.yaml with everything it names, and print what a round will cost."""
    from campaign.validation import validate as check

    _print_lines(check(file))


@app.command()
def schema() -> None:
    """Print the JSON schema of campaign.yaml, for editors that complete and check it."""
    import json

    from campaign.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def launch(
    file: ConfigFile,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder; default: named after the campaign.")
    ] = None,
    pools: PoolsOption = "parsl",
    quiet: Quiet = False,
    detach: Detach = False,
) -> None:
    """Start a campaign and work until it ends; Ctrl-C drains, a second one stops at once."""
    if detach:
        from campaign.detaching import launch_detached

        _print_lines(launch_detached(file, run_dir=run_dir, pools=_pools(pools)))
        return
    from campaign import launch as launching

    console, progress = _progress(quiet)
    _report(console, launching.launch(file, run_dir=run_dir, pools=_pools(pools), progress=progress))


@app.command()
def csp(
    formula: Annotated[str, typer.Argument(help="What is looked for, such as CaTiO3.")],
    spacegroup: Annotated[
        list[int] | None,
        typer.Option(
            help="Polymorphs of this space group, several times for several; without it the ground state.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="Known crystals to learn from, several times for several; each element needs one. "
            "Default: the shipped ones, Ca, Mg, Si and neighbours."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Energies of the final order: mlip (default) asks CHGNet, in minutes; gpaw is DFT, and slow."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of sampling.")] = 1,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Learn nothing from known crystals of the formula.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Only write the campaign.yaml, to this file, and launch nothing.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder; default: named after the campaign.")
    ] = None,
    pools: PoolsOption = "parsl",
    quiet: Quiet = False,
) -> None:
    """Predict the crystal structures of a formula: a campaign from a template, and its ranking by energy."""
    from campaign.csp import CspTask, configuration, csp_text
    from campaign.templates import write_config

    about = CspTask(formula, tuple(spacegroup or ()), tuple(reference or ()), engine, rounds, leave_out)
    text = csp_text(about)
    if write is not None:
        write_config(write, text, force=False)
        typer.echo(f"wrote {write}; start it with `campaign launch {write}`")
        return
    from campaign import launch as launching

    console, progress = _progress(quiet)
    with configuration(text, run_dir) as (file, folder):
        outcome = launching.launch(file, run_dir=folder, pools=_pools(pools), progress=progress)
    _report(console, outcome, ranking=True)


@app.command()
def benchmark(
    file: Annotated[Path, typer.Argument(help="See `campaign init --template benchmark`.")],
    output: Annotated[
        Path | None, typer.Option(help="Its folder; default: named after the benchmark.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Campaigns at a time.")] = 1,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only read, screen and train what campaigns share.")
    ] = False,
) -> None:
    """Run retrospective campaigns, an oracle in the place of DFT, and report what steering is worth."""
    from campaign.benchmarking.benchmark import run_benchmark

    _print_lines(run_benchmark(file, output=output, workers=workers, only_prepare=prepare))


@app.command()
def resume(
    run: Run,
    config: Annotated[Path | None, typer.Option(help="An edited campaign.yaml: budgets, site.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed labels again.")] = False,
    pools: PoolsOption = "parsl",
    quiet: Quiet = False,
    detach: Detach = False,
) -> None:
    """Carry a campaign on after a stop, a crash or a kill."""
    if detach:
        from campaign.detaching import resume_detached

        _print_lines(resume_detached(run, config_file=config, pools=_pools(pools), retry=retry_failed))
        return
    from campaign import launch as launching

    console, progress = _progress(quiet)
    shape = {"config_file": config, "retry": retry_failed, "progress": progress}
    _report(console, launching.resume(run, pools=_pools(pools), **shape))


@app.command()
def status(
    run: Run, as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False
) -> None:
    """Show where a campaign is: funnel, labels, best so far, budgets."""
    from campaign.driver_chain import describe_chain
    from campaign.run_folder import find_run
    from campaign.views.status import summary

    folder = find_run(run)
    with folder.store() as store:
        found = summary(store, folder.config().name) | {"batch": describe_chain(folder)}
    if as_json:
        _print_json(found)
        return
    from campaign.views.tables import status_view

    _console().print(status_view(found, {}, {}))


@app.command()
def stop(
    run: Run,
    now: Annotated[bool, typer.Option("--now", help="Cancel what runs instead of draining.")] = False,
) -> None:
    """Ask a campaign's driver to stop: drain (default), or at once."""
    from campaign.stopping import request_stop

    typer.echo(request_stop(run, now=now))


@app.command()
def retry(
    run: Run,
    failed: Annotated[bool, typer.Option("--failed", help="Every label that has failed.")] = False,
    cause: Annotated[list[str] | None, typer.Option(help="Those that failed for this cause.")] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Those of this candidate.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="The label with this id.")] = None,
) -> None:
    """Try failed labels again, their attempts forgiven; a live driver does it at once, else the next resume."""
    from campaign.retrying import request_retry, which_of

    typer.echo(request_retry(run, which_of(failed, cause or (), candidate or (), label or ())))


@app.command()
def recover(
    run: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what resume would do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Set right what a dead driver left, as resume does first, and end; or only say what that is."""
    from campaign.recover import recover as recover_run

    found = recover_run(run, dry_run=dry_run)
    if as_json:
        _print_json(found.document())
        return
    for line in found.lines():
        typer.echo(line)
    typer.echo("nothing was changed" if dry_run else f"recovered; carry on with `campaign resume {run}`")


@app.command()
def query(
    run: Run,
    collection: Annotated[
        str, typer.Argument(help="candidates, labels, models, rounds, blocks, events, jobs, campaigns.")
    ],
    filter: Annotated[str, typer.Argument(help="A MongoDB filter as JSON.")] = "{}",
    fields: Annotated[str, typer.Option(help="Fields to show, by commas.")] = "",
    sort: Annotated[str, typer.Option(help="Fields to sort by, by commas; -field for descending.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Most documents; 0 for all.")] = 20,
    count: Annotated[bool, typer.Option("--count", help="Only the number.")] = False,
    count_by: Annotated[str, typer.Option(help="Numbers per value of this field.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Query a collection as with MongoDB, whatever the store."""
    from campaign.views.querying import run_query

    shape = {"fields": fields, "sort": sort, "count_by": count_by}
    found = run_query(run, collection, filter, limit=limit, count=count, **shape)
    if isinstance(found, int):
        typer.echo(str(found))
        return
    if found.left_out:
        typer.echo(f"{found.left_out} more documents fit: --limit 0 shows all", err=True)
    if as_json:
        for document in found.documents:
            _print_json(document, indent=None)
        return
    from campaign.views.tables import documents_table

    _console().print(documents_table(found.documents, found.fields))


@app.command()
def export(
    run: Run,
    format: Annotated[str, typer.Option("--format", help="cif, extxyz, json or csv.")] = "cif",
    output: Annotated[Path | None, typer.Option(help="The folder (cif) or file to write.")] = None,
) -> None:
    """Write the labelled candidates as CIF, extxyz, JSON or CSV."""
    from campaign.run_folder import find_run
    from campaign.views.export import export as write

    folder = find_run(run)
    target = output or Path(folder.config().name + ("_cif" if format == "cif" else f".{format}"))
    with folder.store() as store:
        number = write(store, format, target)
    typer.echo(f"wrote {number} candidates to {target}")


@app.command()
def doctor(
    site: Annotated[
        str | None, typer.Option(help="Also start this site's pools: local, or a site file.")
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="Also try this MongoDB: a URI, or env:NAME or file:/path that holds one."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.1, help="Minutes that the site's workers may take, in queues too.")
    ] = 10.0,
) -> None:
    """Say what is installed and works: engines, weights, stores, sites; and the cure for what does not."""
    from campaign.doctor import examine
    from campaign.views.tables import checks_table

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    checks = examine(site=site, uri=uri, limit_s=60 * wait, tell=tell)
    _console().print(checks_table(checks, "campaign doctor"))
    if not all(check.ok or check.optional for check in checks):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what a user can cure becomes one line on stderr and exit code 2."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="campaign", standalone_mode=False)
    except BrokenPipeError:  # `campaign query ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from campaign.cli_errors import is_interrupt, one_line, printable

        if is_interrupt(error):
            typer.echo("interrupted", err=True)
            sys.exit(130)
        line = one_line(error)
        if line is None:
            raise
        typer.echo(f"error: {printable(line)}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _pools(name: str) -> Any:
    from campaign.errors import ConfigError

    allowed = ("parsl", "processes", "threads")
    if name not in allowed:
        raise ConfigError("unknown kind of pools", value=name, allowed=allowed, cure="choose one of these")
    return name


def _console() -> Console:
    from rich.console import Console

    return Console()


def _progress(quiet: bool) -> tuple[Console, Any]:
    from campaign.views.progress import Progress

    console = _console()
    return console, Progress(console, quiet=quiet)


def _report(console: Console, outcome: Outcome, *, ranking: bool = False) -> None:
    from campaign.views.ranking import ranking_rows, ranking_table
    from campaign.views.status import result_rows
    from campaign.views.tables import results_table

    engine = outcome.folder.config().labels.engine
    with outcome.folder.store() as store:
        rows = ranking_rows(store) if ranking else result_rows(store)
    table = ranking_table(rows, engine) if ranking else results_table(rows, "labelled candidates [eV/atom]")
    console.print(table)
    plain: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    console.print(f"campaign {outcome.status.value}: {outcome.reason}", **plain)
    console.print(f"look closer: campaign status {outcome.folder.path}", **plain)
    if outcome.status.value == "failed":
        raise typer.Exit(1)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _print_json(document: Any, indent: int | None = 2) -> None:
    import json

    typer.echo(json.dumps(document, indent=indent, default=str))


if __name__ == "__main__":
    main()
