"""The report needs nothing else, lets no name become markup, and says why pictures appear."""

from html.parser import HTMLParser

import pytest

from rsfed.lab.report import Figures, NodeStory, Reliability, Sheet, Story, render


def story(**changes):
    nodes = [
        NodeStory(name, {"river": 12, "<i>x</i>": 3}, 15, "COMPLETE", 40, 40, 2_000_000, 300_000_000)
        for name in ("alps", "danube")
    ]
    fields = {
        "source": "Synthetic images.",
        "split": "Some were held out.",
        "release": (2, "ab" * 32),
        "bits": 64,
        "rounds": 3,
        "losses": [(1, 1.5), (2, 1.0), (3, 0.8)],
        "queries": 9,
        "methods": {"federated training": Figures(0.912, 0.944), "chance": Figures(0.1, 0.2)},
        "colour_accuracy": 0.43,
        "reliability": [Reliability(0.875, 0.861, 1234)],
        "nodes": nodes,
        "sheets": [Sheet(b"\x89PNG", 'Query "river" & its hits.')],
        "shown": "Typical queries.",
        "phases": {"train": 40.25, "search": 1.5},
        "peak_bytes": 1_500_000_000,
    }
    return Story(**(fields | changes))


class Page(HTMLParser):
    """Collects tags, checks that they close, and lists what a browser would load."""

    VOID = frozenset({"meta", "img", "line", "rect", "circle", "polyline", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.tags, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.loads += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing_but_what_it_holds():
    page = Page(render(story()))
    assert not page.open
    assert page.loads
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "script" not in page.tags


def test_names_of_classes_and_words_of_pictures_are_text():
    text = render(story())
    assert "<i>x</i>" not in text
    assert "&lt;i&gt;x&lt;/i&gt;" in text
    assert Page(text).images[0]["alt"] == 'Query "river" & its hits.'


def test_the_page_says_that_pictures_appear_only_because_the_demo_owns_all_archives():
    text = " ".join(render(story()).split())
    assert "this demo owns all 2 archives" in text
    assert "rsfed node resolve" in text


@pytest.mark.parametrize(
    "figure", ["0.912", "0.944", "43 %", "40.2", "1.50 GB", "2.0 MB", "ab" * 32, "0.875", "0.861", "1,234"]
)
def test_the_page_has_the_figures(figure):
    assert figure in render(story())


def test_a_run_without_any_loss_is_told_without_a_curve():
    assert "No node told a loss" in render(story(losses=[]))


def test_a_release_that_says_nothing_of_relevance_is_told():
    assert "does not say how likely" in render(story(reliability=[]))
