"""How `rsfed node ingest --dry-run` shows what it recognised."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from node.cli.options import Output

if TYPE_CHECKING:
    from node.recipe import Reading
    from node.recognition import Recognition

_MOST_LABELS = 50  # in the table; JSON has all
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def shown(reading: Reading, found: Recognition, output: Output) -> str:
    """Return what is printed."""
    result = _result(reading, found)
    return json.dumps(result, indent=1) if output is Output.JSON else _table(result)


def _result(reading: Reading, found: Recognition) -> dict[str, Any]:
    return {
        "modality": reading.modality.name,
        "release": reading.release,
        "layouts": [
            {
                "layout": name,
                "sources": layout.sources,
                "bytes": layout.bytes,
                "bands": list(layout.bands),
                "headers": layout.headers,
                "grids": [
                    {"width": grid.width, "height": grid.height, "gsd": grid.gsd, "crs": grid.crs, "sources": count}
                    for grid, count in layout.grids.most_common()
                ],
            }
            for name, layout in found.layouts.items()
        ],
        "labels": [
            {"label": label, "sources": count, "mapped": label in found.labels.classes}
            for label, count in found.own_labels.most_common()
        ],
        "unlabelled": found.unlabelled,
        "covered": found.covered,
        "problems": [
            {"reason": reason, "count": count, "example": found.examples[reason]}
            for reason, count in found.problems.most_common()
        ],
    }


def _table(result: dict[str, Any]) -> str:
    rows = [("modality", result["modality"])]
    for layout in result["layouts"]:
        rows += [
            ("layout", f"{layout['layout']}: {layout['sources']:,} sources, {_size(layout['bytes'])}"),
            ("  bands", " ".join(layout["bands"])),
            *(("  grid", f"{_grid(grid)} ({grid['sources']} of {layout['headers']})") for grid in layout["grids"]),
        ]
    labels = result["labels"]
    names = ", ".join(f"{each['label']} {each['sources']}" for each in labels[:_MOST_LABELS]) or "none"
    more = f", and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    rows += [
        ("labels", names + more),
        ("unlabelled", f"{result['unlabelled']:,} sources"),
        ("covered", f"{result['covered']:,} sources, recorded and not searched"),
        ("problems", f"{sum(each['count'] for each in result['problems']):,}"),
        *(
            (f"  {each['count']:,} x", f"{each['reason']} (for example {each['example']})")
            for each in result["problems"]
        ),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _grid(grid: dict[str, Any]) -> str:
    gsd = f" at {grid['gsd']:g} m" if grid["gsd"] else ""
    return f"{grid['width']} x {grid['height']} pixels{gsd}, {grid['crs'] or 'no reference system'}"


def _size(count: float) -> str:
    step = 0
    while count >= 1024 and step < len(_UNITS) - 1:
        count, step = count / 1024, step + 1
    return f"{count:,.0f} {_UNITS[step]}" if step == 0 else f"{count:,.1f} {_UNITS[step]}"
