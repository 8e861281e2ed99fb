"""The part of `make bench-ingest` about the size of an archive: `rsfed node ingest` in a process of its own.

Archives are the row of patches of BigEarthNet that is there, written again row below row, so that each lies where no
other does. Of each is told how many products are taken up in a second, into a real catalogue, and how much memory that
takes at most.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rsfed.lab.memory import MemoryMeter
from rsfed.lab.narrator import Narrator
from rsfed.lab.processes import RSFED, CommandFailed

SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_"  # its patches are called by column and row
NORTH, SIDE = 5_400_000.0, 1200  # metres: upper edge of the first row, height of each


def curve(parent: Path, patches: Sequence[Path], sizes: Sequence[int], narrator: Narrator) -> list[dict[str, float]]:
    """Ingest archives of several sizes, none of which was seen before.

    Args:
        parent: Where they are made.
        patches: Folders of patches of BigEarthNet, a row from west to east.
        sizes: Products of each archive.
        narrator: Told the figures of each.

    Raises:
        CommandFailed: the command ended with an error.
    """
    found = []
    for size in sizes:
        archive = parent / f"archive-{size}"
        with narrator.phase(f"write {size:,} products"):
            _write(archive, patches, size)
        with narrator.phase(f"ingest {size:,} products"):
            point = {"products": size, **_ingested(parent / f"home-{size}", archive)}
        shutil.rmtree(archive)
        narrator.say(f"  {point['per_s']:,} products/s, {point['peak_rss_mb']:,} MB")
        found.append(point)
    return found


def _write(archive: Path, patches: Sequence[Path], size: int) -> None:
    for column, patch in enumerate(patches):
        files = [(file.name.removeprefix(patch.name), file.read_bytes()) for file in patch.iterdir()]
        for row in range(len(range(column, size, len(patches)))):
            folder = archive / str(row) / f"{SCENE}{column}_{row}"
            folder.mkdir(parents=True)
            north = struct.pack("<d", NORTH - SIDE * row)
            for ending, content in files:
                (folder / f"{folder.name}{ending}").write_bytes(content.replace(struct.pack("<d", NORTH), north))


def _ingested(home: Path, archive: Path) -> dict[str, float]:
    _run("node", "init", "--home", str(home), "--archive", str(archive), "--modality", "sentinel-2-l2a")
    with MemoryMeter() as meter:
        process, told = _run("node", "ingest", "--home", str(home), "--output", "json")
    report = json.loads(told)
    rate = report["files"]["read"] / max(report["seconds"], 1e-3)
    return {"per_s": round(rate), "peak_rss_mb": round(meter.peaks[process] / 1e6)}


def _run(*arguments: str) -> tuple[int, str]:
    """Run a command and return the number of its process and what it prints."""
    with subprocess.Popen([*RSFED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told, problem = process.communicate()
    if process.returncode:
        raise CommandFailed(f"rsfed {' '.join(arguments[:2])} failed: {problem.strip().splitlines()[-1:]}")
    return process.pid, told
