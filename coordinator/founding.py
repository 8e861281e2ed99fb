"""Making a federation: configuration, keys, the coordinator's own certificate, and a first release."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator import audit
from coordinator.authority import Authority
from coordinator.bundles import publish_bundle
from coordinator.keyring import Keyring
from coordinator.releases import Publisher
from coordinator.rotation import add_ca, add_release_key
from coordinator.state import State, to_ms
from rsfed.clock import Now, utc_now
from rsfed.config import CoordinatorConfig, check_options, config_path, load_config, toml_text
from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.errors import ConfigError, TrainingError, UsageError
from rsfed.home import Home, check_local, make_folder
from rsfed.trust.certificates import make_ca, make_csr
from rsfed.trust.identity import create_keys, save_bundle, save_certificate, write_atomically
from rsfed.trust.manifest import FrozenTrunk, Provenance
from rsfed.trust.names import MemberId, Role, check_label
from rsfed.trust.release_store import Release

PARTS = (
    "coordinator.toml",
    "identity",
    "secrets",
    "releases",
    "state.sqlite",
    "state.sqlite-wal",
    "state.sqlite-shm",
)
"""What a federation's home consists of."""

DEFAULT_KIND = "compact-resnet"
_DEFAULT_SIZE, _BRANCHED_SIZE = 64, 120  # pixels; the latter are those of BigEarthNet


@dataclass(frozen=True, slots=True)
class Choices:
    """What a federation's founder chooses.

    Attributes:
        federation: Name of the federation.
        modality: What the first encoder reads.
        bits: Width of the codes.
        size: Width and height of the encoder's input in pixels; None for what the trunk takes, or the default.
        classes: Classes of the nomenclature; the first gets id 1.
        advertise: How members reach the federation port.
        join_advertise: How newcomers reach the join port.
        bind: Where the federation port listens.
        join_bind: Where the join port listens.
        kind: Kind of the network.
        trunk: ONNX file of a frozen trunk, which makes the kind "frozen-trunk".
        turns: Whether its features are averaged over the eight positions of a square.
    """

    federation: str
    modality: str
    bits: int
    size: int | None
    classes: tuple[str, ...]
    advertise: str
    join_advertise: str
    bind: str
    join_bind: str
    kind: str = DEFAULT_KIND
    trunk: Path | None = None
    turns: bool = False


_TOML = """\
# Configuration of the coordinator. `rsfed config schema coordinator` lists every key.
federation = {federation}

[serve]
# Where this machine listens, and how others reach it: the federation port for members, the join port for newcomers.
bind = {bind}
advertise = {advertise}
join_bind = {join_bind}
join_advertise = {join_advertise}

[query]
# Seconds that nodes have at most to answer one query.
deadline_s = 5.0

# What the federation trains. A change counts from the next training run on.
[encoder]
kind = {kind}  # compact-resnet; k-branch for bands of several ground sampling distances; frozen-trunk
modality = {modality}
bits = {bits}
size = {size}  # pixels

# What codes are trained for: centres, milan_batchall, milan, pairwise, or contrastive, which needs no labels; on a
# frozen trunk also closed_form, one round for codes as of all images in one place. Each has options of its own, see
# docs/operating.md.
[objective]
name = {objective}

[training]
# local_steps: optimiser steps of a node in one round; 5 on a frozen trunk and 40 elsewhere, unless said here
batch = 64  # patches
learning_rate = 0.001
round_timeout_s = 600.0
min_nodes = 1
fraction = 1.0  # of the nodes that are there, drawn for each round; min_nodes at least
seed = 0

# The federation's classes with their ids. Ids stay: give a new class a new one, never one that was used before.
# A change of the classes needs a higher version.
[nomenclature]
name = {federation}
version = 1

[nomenclature.classes]
{classes}
"""


_OPTIONS = {
    "kind": "--kind",
    "modality": "--modality",
    "bits": "--bits",
    "size": "--size",
    "classes": "--classes",
    "advertise": "--advertise",
    "join_advertise": "--join-advertise",
    "bind": "--bind",
    "join_bind": "--join-bind",
    "encoder": "--kind",  # where kind, modality and size do not go together
}


def found(home: Home, choices: Choices, *, now: Now = utc_now) -> Release:
    """Make a federation in an empty home and return its first release, an untrained network.

    Raises:
        UsageError: a choice will not do.
        ConfigError: ALREADY_INITIALISED, the home holds a federation.
        StateError: the home lies on a network file system.
    """
    trunk = None if choices.trunk is None else _inspected(choices)
    text = _configuration(_settled(choices, trunk))
    if any((home.path / part).exists() for part in PARTS):
        raise ConfigError(
            "this home is a coordinator already; edit its coordinator.toml, or choose another --home",
            reason="ALREADY_INITIALISED",
            detail=str(home.path),
        )
    check_local(home.path)
    made = [folder for folder in (home.path, *home.path.parents) if not folder.exists()]
    make_folder(home.path, mode=0o700)
    try:
        write_atomically(config_path(CoordinatorConfig, home.path), text.encode())
        config = load_config(CoordinatorConfig, home.path)
        with closing(State(home)) as state:
            _make_trust(home, state, config, now)
            return _first_release(home, state, config, (trunk, choices.trunk), now)
    except BaseException:
        _remove(home)  # half a federation would be in the way of the next try
        for folder in made:
            with suppress(OSError):  # another process may use it by now
                folder.rmdir()
        raise


def _configuration(choices: Choices) -> str:
    """Return the text of coordinator.toml.

    Raises:
        UsageError: a choice will not do.
    """
    check_label(choices.federation, "a federation's name")
    if len(set(choices.classes)) != len(choices.classes):
        raise UsageError("a class is named twice")
    for name in choices.classes:
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise UsageError(f"a class needs a name of 1 to 64 printable characters; got {name!r}")
    classes = "\n".join(f"{toml_text(name)} = {number}" for number, name in enumerate(choices.classes, start=1))
    fields = {name: getattr(choices, name) for name in choices.__slots__}
    quoted = {name: toml_text(value) if isinstance(value, str) else value for name, value in fields.items()}
    objective = toml_text("closed_form" if choices.kind == "frozen-trunk" else DEFAULT_OBJECTIVE.name)
    text = _TOML.format(**{**quoted, "objective": objective, "classes": classes or "# water = 1"})
    check_options(CoordinatorConfig, text, _OPTIONS)
    return text


def _remove(home: Home) -> None:
    for part in PARTS:
        path = home.path / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _make_trust(home: Home, state: State, config: CoordinatorConfig, now: Now) -> None:
    """Make CA, release key, the coordinator's identity and the first trust bundle."""
    moment = now()
    keyring = Keyring(home)
    coordinator = MemberId(config.federation, Role.COORDINATOR, config.name)
    keys = create_keys(home.identity)
    key, certificate = make_ca(config.federation, now=moment)
    with state.writing() as connection:
        add_ca(connection, keyring, certificate, key, moment)
        add_release_key(connection, keyring, moment)
        connection.execute(
            "INSERT INTO member (uri, role, name, sealing_key, joined) VALUES (?, ?, ?, ?, ?)",
            (coordinator.uri, coordinator.role, coordinator.name, keys.sealing_public, to_ms(moment)),
        )
        signed = publish_bundle(connection, keyring, coordinator, moment)
        audit.record(connection, moment, "federation.founded", config.federation)
    save_bundle(home.identity, signed)
    save_certificate(home.identity, Authority(home, state, config, now=now).renew_own(make_csr(keys.key)))


def _inspected(choices: Choices) -> FrozenTrunk:
    """Try the trunk before anything is made.

    Raises:
        UsageError: it will not do.
        ConfigError: EXTRA_MISSING, onnxruntime is not installed.
    """
    from rsfed.hashing.trunk import inspect_trunk  # noqa: PLC0415 - loaded only when used

    if choices.kind not in {DEFAULT_KIND, "frozen-trunk"}:
        raise UsageError("give --trunk or --kind, not both")
    path = choices.trunk or Path()
    try:
        return inspect_trunk(path, choices.size or _DEFAULT_SIZE, turns=choices.turns)
    except TrainingError as error:
        raise UsageError(f"--trunk: {error.public}", detail=error.detail or str(path)) from error


def _settled(choices: Choices, trunk: FrozenTrunk | None) -> Choices:
    """Return the choices with what follows from the trunk."""
    if trunk is None:
        if choices.turns:
            raise UsageError("--turns needs --trunk FILE, whose features it averages")
        if choices.kind == "frozen-trunk":
            raise UsageError("a frozen trunk is given by --trunk FILE")
        usual = _BRANCHED_SIZE if choices.kind == "k-branch" else _DEFAULT_SIZE
        return replace(choices, size=usual if choices.size is None else choices.size)
    if choices.size not in {None, trunk.size}:
        raise UsageError(f"--size: the trunk takes {trunk.size} pixels")
    return replace(choices, kind=trunk.kind, size=trunk.size)


def _first_release(
    home: Home, state: State, config: CoordinatorConfig, trunk: tuple[FrozenTrunk | None, Path | None], now: Now
) -> Release:
    from coordinator.training.runs import make_plan  # noqa: PLC0415 - loaded only when used
    from rsfed.hashing.weights import init_weights  # noqa: PLC0415 - loads torch

    known, file = trunk
    plan = make_plan(config, 1, known)
    weights = init_weights(plan.architecture, plan.input, plan.bits, plan.seed)
    publisher = Publisher(home, state, config.federation, now=now)
    return publisher.publish(plan, weights, Provenance(seed=plan.seed), {}, trunk=file)


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the classes of a file with one name on each line; empty lines and lines with # are skipped.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the file of classes cannot be read", detail=str(path)) from error
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
