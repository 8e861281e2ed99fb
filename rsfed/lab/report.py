"""The demo's report: one HTML file that needs nothing else, with pictures and charts inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from rsfed.lab.charts import Line, bar_chart, line_chart
from rsfed.lab.page import page


@dataclass(frozen=True, slots=True)
class Figures:
    """Retrieval figures of one way to search, 0 to 1."""

    precision_at_10: float
    map_at_20: float


@dataclass(frozen=True, slots=True)
class NodeStory:
    """What one node had, did and gave away.

    Attributes:
        name: Its name.
        classes: Number of its images of each class, by name.
        patches: Patches that it indexed.
        outcome: How it took part in the queries.
        hits: Its items that were listed.
        resolved: Handles that its own operator resolved for the pictures and labels of this report.
        update_bytes: Bytes of model weights that it sent.
        peak_bytes: Most memory that its process held, proportional set size.
    """

    name: str
    classes: Mapping[str, int]
    patches: int
    outcome: str
    hits: int
    resolved: int
    update_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Sheet:
    """One contact sheet: the PNG's bytes and what it shows, in words."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Reliability:
    """Hits of which the release said one relevance.

    Attributes:
        said: That relevance, 0 to 1.
        measured: Share of them that are relevant.
        hits: Number of them.
    """

    said: float
    measured: float
    hits: int


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that the report tells.

    Attributes:
        source: Where the images came from, in words.
        split: How queries were held out and archives made, in words.
        release: Version and digest (hexadecimal) of the release that was searched.
        bits: Width of the codes.
        losses: Mean training loss of the nodes in each round, as (round, loss).
        rounds: Rounds of training.
        queries: Number of held-out queries.
        methods: Figures by way to search, the federation's own first.
        colour_accuracy: Accuracy of the nearest-mean-colour classifier, 0 to 1.
        reliability: What the release said of the hits and what is true; empty where it says nothing.
        nodes: The archives.
        sheets: Contact sheets of some queries.
        shown: By which rule these queries were chosen, in words.
        phases: Seconds of each step, in order.
        peak_bytes: Most memory that all processes held at once, summed proportional set size.
    """

    source: str
    split: str
    release: tuple[int, str]
    bits: int
    rounds: int
    losses: Sequence[tuple[float, float]]
    queries: int
    methods: Mapping[str, Figures]
    colour_accuracy: float
    reliability: Sequence[Reliability]
    nodes: Sequence[NodeStory]
    sheets: Sequence[Sheet]
    shown: str
    phases: Mapping[str, float]
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Seconds of all steps."""
        return sum(self.phases.values())


def render(story: Story) -> str:
    """Return the report as one HTML page."""
    return page(
        files("rsfed.lab").joinpath("report.html"),
        story=story,
        figures=next(iter(story.methods.values())),
        classes=sorted({name for node in story.nodes for name in node.classes}),
        largest=max((count for node in story.nodes for count in node.classes.values()), default=1),
        bars=_bars(story),
        curve=_curve(story),
    )


def _bars(story: Story) -> Markup:
    rows = {name: (figures.precision_at_10, figures.map_at_20) for name, figures in story.methods.items()}
    return bar_chart(rows, series=("precision@10", "mAP@20"), title="Retrieval figures by way to search")


def _curve(story: Story) -> Markup | None:
    if not story.losses:
        return None
    line = Line("mean loss of the nodes", "node-0", story.losses)
    return line_chart([line], title="Training loss by round", x_label="round", y_label="loss")
