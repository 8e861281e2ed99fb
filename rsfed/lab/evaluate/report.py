"""The report of an evaluation: one HTML page that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rsfed.home import make_folder
from rsfed.lab.charts import group_mark
from rsfed.lab.evaluate import pictures
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.measures import CLASS_FIGURE
from rsfed.lab.evaluate.outputs import (
    COSTS_IN_WORDS,
    FIGURES,
    columns,
    costs,
    figure,
    figure_tables,
    leak_in_words,
    protocol_lines,
    split_in_words,
)
from rsfed.lab.evaluate.results import Evaluation
from rsfed.lab.page import page


def write_report(evaluation: Evaluation, images: ImageSet, folder: Path) -> Path:
    """Draw the pictures, write `evaluation.html` into a folder and return its path."""
    text = render(evaluation, images)
    make_folder(folder)
    path = folder / "evaluation.html"
    path.write_text(text, encoding="utf-8")
    return path


def render(evaluation: Evaluation, images: ImageSet) -> str:
    """Return the report as one HTML page."""
    shown = pictures.side_by_side(evaluation)
    with_codes = [shot for shot in evaluation.snapshots if shot.codes is not None]
    return page(
        files("rsfed.lab.evaluate").joinpath("report.html"),
        evaluation=evaluation,
        protocol=evaluation.protocol,
        split=split_in_words(evaluation),
        best=evaluation.best,
        tables=figure_tables(evaluation),
        columns=columns(evaluation),
        words=FIGURES,
        figure=figure,
        class_figure=CLASS_FIGURE,
        leak=leak_in_words(evaluation),
        how=protocol_lines(evaluation),
        costs=costs(evaluation) if evaluation.timings else None,
        costs_in_words=COSTS_IN_WORDS,
        curves=pictures.precision_recall(evaluation.snapshots),
        distances=[pictures.distances(shot) for shot in with_codes],
        maps=[pictures.code_map(shot, evaluation) for shot in shown],
        marks=[(name, group_mark(number)) for number, name in enumerate(evaluation.protocol.classes)],
        sheets=pictures.sheets(evaluation, images, shown) if shown else [],
        bit_bars=pictures.bit_bars(evaluation.rows) if with_codes else None,
        bit_legend=[(name, f"series-{number}") for number, name in enumerate(pictures.BIT_SERIES)],
    )
