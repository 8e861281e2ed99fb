"""The part of `make bench-ingest` about the size of an archive: `rsfed node ingest` in a process of its own.

Archives are made of the patches of BigEarthNet that are there, under as many names as wanted; every file is a link to
one of them, so that a large archive takes no room. Of each is told how many products are taken up in a second, into a
real catalogue, and how much memory that takes at most.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rsfed.lab.memory import MemoryMeter
from rsfed.lab.narrator import Narrator
from rsfed.lab.processes import RSFED, CommandFailed

_SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_"  # its patches are called by row and column
_A_ROW = 1000  # patches with one number in their names


def curve(parent: Path, patches: Sequence[Path], sizes: Sequence[int], narrator: Narrator) -> list[dict[str, float]]:
    """Ingest archives of several sizes, none of which was seen before.

    Args:
        parent: Where they are made.
        patches: Folders of patches of BigEarthNet.
        sizes: Products of each archive.
        narrator: Told the figures of each.

    Raises:
        CommandFailed: the command ended with an error.
    """
    found = []
    for size in sizes:
        with narrator.phase(f"ingest {size:,} products"):
            archive = _linked(parent / f"archive-{size}", patches, size)
            point = {"products": size, **_ingested(parent / f"home-{size}", archive)}
        narrator.say(f"  {point['per_s']:,} products/s, {point['peak_rss_mb']:,} MB")
        found.append(point)
    return found


def _linked(archive: Path, patches: Sequence[Path], size: int) -> Path:
    for number in range(size):
        patch = patches[number % len(patches)]
        folder = archive / str(number // _A_ROW) / f"{_SCENE}{number // _A_ROW}_{number % _A_ROW}"
        folder.mkdir(parents=True)
        for file in patch.iterdir():
            (folder / file.name.replace(patch.name, folder.name)).hardlink_to(file)
    return archive


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
