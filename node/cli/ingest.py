"""`rsfed node ingest`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.control import notify_serve
from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home
from node.cli.progress import progress

if TYPE_CHECKING:
    from node.ingest import Report
    from node.recipe import Reading
    from rsfed.home import Home


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("ingest")(ingest)


def ingest(
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="The archive is empty on purpose: withdraw all its patches.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, max=64, help="Processes that read images (0: none)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is recognised; read no pixel and write nothing.")
    ] = False,
) -> None:
    """Bring the catalogue in line with the archive: new files come, changed ones are read again, vanished ones go.

    Images are only read, never moved or changed. A second run reads nothing; an interrupted run goes on where it was.
    Files that will not do are skipped, each with its reason, and counted.
    """
    from node.ingest import Listener  # noqa: PLC0415 - loaded only when used
    from node.ingest import ingest as bring_in_line  # noqa: PLC0415 - loaded only when used
    from node.recipe import reading_of  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    config = load_config(NodeConfig, place.path)
    reading = reading_of(place, config)
    if dry_run:
        from node.cli.dry_run import shown  # noqa: PLC0415 - loaded only when used
        from node.recognition import recognise  # noqa: PLC0415 - loaded only when used

        typer.echo(shown(reading, recognise(reading, config), output))
        return
    with progress("ingest") as (progressed, say):
        told = Listener(progressed, lambda problem: say(f"skipped {problem.name}: {problem.reason}"))
        report = bring_in_line(place, told, accept_empty=accept_empty, workers=workers)
    notify_serve(place)
    result = _result(place, reading, report)
    typer.echo(json.dumps(result, indent=1) if output is Output.JSON else _table(result))
    _warn(place)


def _warn(home: Home) -> None:
    """Say on standard error when the federation cannot search the patches."""
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used
    from node.searchable import warning  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    with Catalogue(home) as catalogue:
        if lost := warning(catalogue.modalities(), ReleaseStore(home.releases).current()):
            typer.echo(f"warning: {lost}", err=True)


def _result(home: Home, reading: Reading, report: Report) -> dict[str, Any]:
    """Return what is printed, in the form of `--output json`."""
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used

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
            "crs": [{"crs": crs, "files": count} for crs, count in catalogue.reference_systems().items()],
            "seconds": round(report.seconds, 3),
        }


def _table(result: dict[str, Any]) -> str:
    files, patches = result["files"], result["patches"]
    rows = [
        ("files", f"{files['seen']} seen, {files['read']} read, {files['withdrawn']} withdrawn"),
        (
            "patches",
            f"{patches['present']} present, {patches['recorded']} recorded (no data, covered, or same place)",
        ),
        ("input", _input(result)),
        ("acquisitions", str(result["acquisitions"])),
        ("crs", ", ".join(f"{each['crs'] or 'none'} ({each['files']})" for each in result["crs"]) or "none"),
        *_label_rows(result),
        ("classes", ", ".join(f"{name} {count}" for name, count in result["classes"].items()) or "none"),
        ("unlabelled", f"{patches['present'] - patches['labelled']} patches"),
        ("skipped", str(sum(each["count"] for each in result["skipped"]))),
        *((f"  {each['count']} x", each["reason"]) for each in result["skipped"]),
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
