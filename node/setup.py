"""Making a node's home: configuration, keys, secrets, empty state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from node.keys import handle_key, tie_key
from node.state import open_state
from rsfed.config import NodeConfig, check_options, config_path, toml_text
from rsfed.errors import ConfigError, UsageError
from rsfed.home import Home, check_local, make_folder
from rsfed.trust.identity import create_keys, write_atomically

_TEMPLATE = """\
# Configuration of one archive. `rsfed config schema node` lists every key; RSFED_NODE__<SECTION>__<KEY> overrides one.

[serve]
# Where this node listens, and how the coordinator reaches it; they differ behind a firewall or on several networks.
bind = {bind}
advertise = {advertise}

[archive]
# The images; they are only ever read, and never leave. A relative path starts at the folder of this file.
# In place of a path, `stac` names the address of a STAC catalogue (docs/archives.md).
path = {path}
# What the images are: rgb, sentinel-2-l2a, ..., or <type>-<bands> such as uint16-7.
modality = {modality}
# Where labels come from: "folders" (the folder an image lies in; of a product, what was published with it), "none",
# "bigearthnet-19" or "bigearthnet-43" (what was published, in this nomenclature), or a CSV file with columns path and
# label.
labels = "folders"
# Files that do not say when they were taken count as one acquisition for the floors of privacy, all together; true
# declares that each of them was taken on its own.
independent_files = false

# How labels of the archive become classes of the federation. Labels that are spelt like a class need no line;
# labels without a class stay unlabelled. One class, several, or "none":
[labels.map]
# "annual crop (irrigated)" = "annual crop"
# "park" = ["forest", "herbaceous vegetation"]
# "clouds" = "none"

# What the node gives away. Without a line it is "guarded": answers go by cells of the release's codebook and speak of
# five acquisitions or more. "partner" answers exactly, and so discloses the codes. "catalogue", "sealed" and "counts"
# answer no query: they publish. `rsfed node policy explain` says what the levels mean, and which fits the archive.
[policy]
# level = "partner"
# What no query may be filtered by: of "time", "bbox", "modality", "label". A query with such a filter is refused.
# unfilterable = ["label"]
# How coarsely it is told, and may be asked, where and when: "10km", "100km", "country" or "none"; "day", "month",
# "year" or "none". Without a line exactly, but at "guarded", which never says more than degrees and months. "country"
# needs a GeoJSON file of borders: countries = "borders.geojson", in this folder.
# footprints = "10km"
# dates = "month"
# How often a patch may be listed to those who refine, at "catalogue", under a release; 0: never.
# refine_budget = 500
# What single analysts are answered at; loosen = true has to be said where that discloses more.
# analysts.ada = {{ level = "partner", loosen = true }}

# Analysts may ask for an image that their query found. `rsfed node requests` lists who asks and why; only what you
# approve leaves, sealed for who asked.
[access]
enabled = true
# The most that one of them may hold, in MiB.
max_mib = 64

[training]
# Take part in federated training: images stay, model updates leave.
enabled = true
# Processor cores, and memory for patches, that training may use; of more patches a random part is taken.
threads = 1
memory_mib = 1024
# Bounds of what a run may ask: without a line there is none. docs/operating.md says what each means.
# objectives = ["milan_batchall", "centres"]
# max_epochs = 10.0
# rounds_per_day = 100
# hours = "20-6"
# min_others = 2
# What leaves beside the update: "loss" is the mean training loss, rounded, never of a small archive.
# report = ["loss"]
# Sums of products of features, which a frozen trunk's last layer is solved for from; of fewer than some 4,100 patches
# they disclose what the features of these span, and of every archive how many patches each class has.
# sums = false
# Keep a tenth to a quarter of the labelled patches out of training, and send after it how many of the items nearest to
# them are relevant, by distance: what `relevance` in the results of a search is made of. `rsfed node policy` says more.
calibration = true
"""

_OPTIONS = {"modality": "--modality", "advertise": "--advertise", "bind": "--bind", "path": "--archive"}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator chose at `init`.

    Attributes:
        archive: Folder of the images; None for `archive` inside the home.
        modality: Name of the modality.
        bind: Where the node listens, host:port.
        advertise: How the coordinator reaches it, host:port.
    """

    archive: Path | None
    modality: str
    bind: str
    advertise: str


def init_node(home: Home, choices: Choices) -> Path:
    """Make a node's home and return its configuration file; running it again after a crash finishes the work.

    Raises:
        ConfigError: ALREADY_INITIALISED, the home has a configuration; nothing was changed.
        UsageError: a choice will not do; nothing was changed.
        StateError: the home lies on a network file system.
    """
    path = config_path(NodeConfig, home.path)
    if path.exists():
        raise ConfigError(
            "this home is a node already; edit its node.toml, or choose another --home",
            reason="ALREADY_INITIALISED",
            detail=str(path),
        )
    text = _configuration(choices)
    check_local(home.path)
    make_folder(home.path, mode=0o700)
    open_state(home).close()
    create_keys(home.identity)
    handle_key(home)
    tie_key(home)
    if choices.archive is None:
        (home.path / "archive").mkdir(exist_ok=True)
    write_atomically(path, text.encode())
    return path


def _configuration(choices: Choices) -> str:
    if choices.archive is not None and not choices.archive.is_dir():
        raise UsageError("--archive must be a folder that exists", detail=os.fspath(choices.archive))
    archive = "archive" if choices.archive is None else str(choices.archive.resolve())
    values = {"bind": choices.bind, "advertise": choices.advertise, "path": archive, "modality": choices.modality}
    text = _TEMPLATE.format(**{key: toml_text(value) for key, value in values.items()})
    check_options(NodeConfig, text, _OPTIONS)
    return text
