"""`rsfed node ingest`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.control import notify_serve
from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, unsearched
from node.cli.progress import progress
from rsfed.errors import UsageError

if TYPE_CHECKING:
    from node.ingest import Report
    from rsfed.crew import Hands
    from rsfed.home import Home
    from rsfed.raster.layout import Skipped

_BEGUN = (
    "the database of this home was gone and begins anew: handles that were given mean nothing any more, and counts and "
    "refine rest until the next release"
)
Told = set[tuple[str, str]]
"""Names of what was skipped, and why."""
Take = Callable[[Told], "Report"]


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("ingest")(ingest)


def ingest(  # noqa: PLR0913, PLR0917 - the options of the command
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="The archive is empty on purpose: withdraw all its patches.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, max=64, help="Processes that read images (0: none)."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Read and hash on a Dask cluster, such as tcp://host:8786 (docs/scenes.md)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is recognised; read no pixel and write nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=1, max=86_400, help="Seconds between two looks of --watch.")
    ] = 60.0,
) -> None:
    """Bring the catalogue in line with the archive: new files come, changed ones are read again, vanished ones go.

    Images are only read, never moved or changed. A second run reads nothing; an interrupted run goes on where it was.
    Files that will not do are skipped, each with its reason, and counted.
    """
    place = node_home(home)
    if dry_run and watch:
        raise UsageError("--dry-run looks once; leave out --watch")
    if dry_run:
        typer.echo(_recognised(place, output))
        return
    if scheduler is not None and workers is not None:
        raise UsageError("--workers is for this machine and --scheduler for a cluster; give one of them")
    take = partial(_pass, place, workers, scheduler, accept_empty=accept_empty)
    if watch:
        from node.cli.watch import watching  # noqa: PLC0415 - loaded only when used

        told: Told = set()
        watching(lambda: _look(place, output, told, take), interval)
        return
    report = take(set())
    result = _result(place, report)
    typer.echo(json.dumps(result, indent=1) if output is Output.JSON else _table(result))
    _warn(place)


def _recognised(home: Home, output: Output) -> str:
    from node.cli.dry_run import shown  # noqa: PLC0415 - loaded only when used
    from node.recipe import reading_of  # noqa: PLC0415 - loaded only when used
    from node.recognition import recognise  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    config = load_config(NodeConfig, home.path)
    reading = reading_of(home, config)
    return shown(reading, recognise(reading, config), output)


def _pass(home: Home, workers: int | None, scheduler: str | None, told: Told, *, accept_empty: bool) -> Report:
    """Ingest once, telling what is skipped unless it was told before, and let a running `serve` know.

    Args:
        home: The node's home.
        workers: As for `ingest`.
        scheduler: Of the cluster that reads and hashes, which is connected to anew; None for none.
        told: What was skipped before and why; then what was skipped now.
        accept_empty: As for `ingest`.
    """
    from node.ingest import Listener  # noqa: PLC0415 - loaded only when used
    from node.ingest import ingest as bring_in_line  # noqa: PLC0415 - loaded only when used
    from node.state import lost  # noqa: PLC0415 - loaded only when used

    now: Told = set()
    gone = lost(home)
    with _cluster(scheduler) as elsewhere, progress("ingest") as (progressed, say):

        def skipped(problem: Skipped) -> None:
            now.add((problem.name, problem.reason))
            if (problem.name, problem.reason) not in told:
                say(f"skipped {problem.name}: {problem.reason}")

        listener = Listener(progressed, skipped)
        report = bring_in_line(home, listener, accept_empty=accept_empty, workers=workers, cluster=elsewhere)
    if gone:
        typer.echo(_BEGUN, err=True)
    told.clear()
    told |= now
    notify_serve(home)
    return report


def _look(home: Home, output: Output, told: Told, take: Take) -> None:
    """Ingest once more, and print one line where something came or went."""
    report = take(told)
    if not (report.read or report.withdrawn):
        return
    result = _result(home, report)
    typer.echo(json.dumps(result) if output is Output.JSON else _line(result))
    _warn(home)


def _line(result: dict[str, Any]) -> str:
    files, rate = result["files"], result["files"]["read"] / max(result["seconds"], 1e-3)
    return (
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {files['read']:,} read ({rate:,.1f}/s), {files['withdrawn']:,} "
        f"withdrawn, {sum(each['count'] for each in result['skipped']):,} skipped; "
        f"{result['patches']['present']:,} patches present"
    )


def _cluster(scheduler: str | None) -> AbstractContextManager[Hands | None]:
    """Return the cluster that reads and hashes; None where none is named."""
    if scheduler is None:
        return nullcontext()
    from rsfed.cluster import cluster  # noqa: PLC0415 - loaded only when used

    return cluster(scheduler)


def _warn(home: Home) -> None:
    """Say on standard error when the federation cannot search the patches."""
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used
    from node.searchable import warning  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    with Catalogue(home) as catalogue:
        if lost := warning(catalogue.modalities(), ReleaseStore(home.releases).current()):
            typer.echo(f"warning: {lost}", err=True)


def _result(home: Home, report: Report) -> dict[str, Any]:
    """Return what is printed, in the form of `--output json`."""
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used

    reading = report.reading
    names = {entry.id: entry.name for entry in reading.nomenclature.classes} if reading.nomenclature else {}
    with Catalogue(home) as catalogue:
        present, labelled = catalogue.count(), catalogue.count_labelled()
        return {
            "modality": reading.modality.name,
            "fit": reading.spec.fit,
            "size": reading.spec.groups[0].size,
            "gsd": reading.spec.groups[0].gsd,
            "release": reading.release,
            "files": {"seen": report.files, "read": report.read, "withdrawn": report.withdrawn},
            "patches": {
                "present": present,
                "recorded": catalogue.count(state="recorded"),
                "covered": catalogue.count_covered(reading.spec.max_nodata),
                "same_place": catalogue.count_behind(),
                "labelled": labelled,
                "unmapped": catalogue.count_with_labels(report.labels.unmapped),
                "ambiguous": catalogue.count_with_labels(report.labels.ambiguous),
            },
            "skipped": [{"reason": reason, "count": count} for reason, count in report.skipped.most_common()],
            "labels": {
                "mapped": len(report.labels.classes),
                "unmapped": len(report.labels.unmapped),
                "ambiguous": len(report.labels.ambiguous),
                "unmapped_labels": list(report.labels.unmapped),
                "ambiguous_labels": {label: list(names) for label, names in report.labels.ambiguous.items()},
                "unused_map_entries": list(report.labels.unused),
            },
            "classes": {names[number]: count for number, count in catalogue.class_counts().items()},
            "acquisitions": catalogue.acquisitions(),
            "hashed": report.hashed,
            "crs": [{"crs": crs, "files": count} for crs, count in catalogue.reference_systems().items()],
            "seconds": round(report.seconds, 3),
        }


def _table(result: dict[str, Any]) -> str:
    files, patches = result["files"], result["patches"]
    rows = [
        ("files", f"{files['seen']} seen, {files['read']} read, {files['withdrawn']} withdrawn"),
        (
            "patches",
            f"{patches['present']} present, "
            + unsearched(patches["recorded"], patches["covered"], patches["same_place"]),
        ),
        ("input", _input(result)),
        ("acquisitions", str(result["acquisitions"])),
        ("crs", ", ".join(f"{each['crs'] or 'none'} ({each['files']})" for each in result["crs"]) or "none"),
        *_label_rows(result),
        ("classes", ", ".join(f"{name} {count}" for name, count in result["classes"].items()) or "none"),
        ("unlabelled", f"{patches['present'] - patches['labelled']} patches"),
        ("skipped", str(sum(each["count"] for each in result["skipped"]))),
        *((f"  {each['count']} x", each["reason"]) for each in result["skipped"]),
        *([("hashed", f"{result['hashed']:,} patches by the cluster")] if result["hashed"] else []),
        ("seconds", f"{result['seconds']:.1f}"),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _label_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    labels = result["labels"]
    if result["release"] is None:
        return [("labels", f"{labels['unmapped']} in the archive; their classes come with the first release")]
    counts = ", ".join(
        f"{labels[kind]} {kind} ({_patches(result['patches'][patches])})"
        for kind, patches in (("mapped", "labelled"), ("unmapped", "unmapped"), ("ambiguous", "ambiguous"))
    )
    return [("labels", counts), *((f"  {kind}", ", ".join(labels[key])) for kind, key in _LISTED if labels[key])]


_LISTED = (
    ("unmapped", "unmapped_labels"),
    ("ambiguous", "ambiguous_labels"),
    ("map only", "unused_map_entries"),
)


def _patches(count: int) -> str:
    return f"{count} patch{'es' * (count != 1)}"


def _input(result: dict[str, Any]) -> str:
    scale = f" at {result['gsd']:g} m" if result["gsd"] else ""
    source = f"release {result['release']}" if result["release"] else "default, there is no release yet"
    return f"{result['modality']}, fit {result['fit']} to {result['size']} pixels{scale} ({source})"
