"""What may be wrong with a node, and what to do about it: one finding for each check."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from node.borders import all_at_sea, detail_of
from node.catalogue import Catalogue, archive_root
from node.closed import closed, lacking
from node.searchable import REMEDY, finding, mismatch
from node.state import open_state
from rsfed.clock import Now, utc_now
from rsfed.config import NodeConfig
from rsfed.errors import ConfigError, NotAdmitted, RsfedError, StateError
from rsfed.home import Home, check_local, file_system
from rsfed.privacy.policy import policy
from rsfed.trust.certificates import needs_renewal
from rsfed.trust.identity import Identity, load_identity
from rsfed.trust.manifest import Manifest
from rsfed.trust.preflight import check_identity
from rsfed.trust.release_store import ReleaseStore

MAX_SKEW = timedelta(seconds=60)
_CERTIFICATE_REMEDIES = {
    "CERT_EXPIRED": "start `rsfed node serve`, which recovers it for 30 days; later ask for a new invitation",
    "REVOKED": "ask for a new invitation, then `rsfed node join TOKEN`",
}
_FEW_ACQUISITIONS = (
    "ingest more, or declare independent_files = true where each file was taken on its own; "
    "`rsfed node policy explain` says which level fits"
)
_NO_CODEBOOK = (
    "ask the coordinator's operator to train a release on archives with more acquisitions: a class needs five; "
    "`partner` needs no codebook"
)
_NEXT_RELEASE = "ask the coordinator's operator for a new release, under which spending begins anew"
_AUDIT_LOG = "restore a backup, or begin a new audit log with `rsfed node audit restart`"
_STATE = "do as it says; a backup is restored into a new folder: `rsfed node restore FILE --home FOLDER`"
_BORDERS = "do as it says, or choose other [policy] footprints; serve does not start before"
_AT_SEA = "check that the file has longitude before latitude, and the countries of the archive"
_LOW_DISK, _NO_DISK = 2 << 30, 256 << 20  # bytes


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was looked at.
        verdict: How it came out.
        found: What was found.
        remedy: What to do; empty when nothing has to be done.
        reason: Closed reason of a failure or warning that has one, else empty.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Coordinator:
    """What the coordinator answered.

    Attributes:
        clock: Its clock.
        asked: Our clock before and after the call.
        dialled_back: Whether it reached this node; None where it was not asked to.
    """

    clock: datetime
    asked: tuple[datetime, datetime]
    dialled_back: bool | None


def local_findings(
    home: Home, config: NodeConfig, *, serve_connected: bool | None, now: Now = utc_now
) -> list[Finding]:
    """Check all that needs no connection.

    Args:
        home: The node's home.
        config: Its configuration.
        serve_connected: Whether the running `serve` reached the coordinator lately; None where none runs.
        now: Wall clock.
    """
    return [
        _state_folder(home),
        _disk(home),
        _archive(home, config),
        _policy(home, config),
        *_borders(home, config),
        *_spending(home, config),
        _threads(config),
        _certificate(home, now()),
        _trust_bundle(home, now()),
        _release(home, config, now()),
        _serve(serve_connected),
    ]


def coordinator_findings(ask: Callable[[], Coordinator]) -> list[Finding]:
    """Check connection, clock and the way back.

    Args:
        ask: Asks the coordinator; raises one of our errors where that is impossible.
    """
    try:
        answer = ask()
    except RsfedError as error:
        # Without an identity there is nobody to ask; the certificate's row says so.
        return [] if error.reason == "NOT_JOINED" else [_refusal(error)]
    return [Finding("coordinator", Verdict.OK, "reached"), _clock(answer), _way_back(answer)]


def _refusal(error: RsfedError) -> Finding:
    remedy = "see the other rows, and ask the coordinator's operator whether it runs"
    if error.reason == "CLOCK_SKEW":
        return Finding("clock", Verdict.FAIL, error.public, "set both clocks by a time server (NTP)", error.reason)
    return Finding("coordinator", Verdict.FAIL, str(error), remedy, error.reason)


def _state_folder(home: Home) -> Finding:
    try:
        check_local(home.path)
    except StateError as error:
        return Finding("state folder", Verdict.FAIL, error.public, "move the home to a local disk", error.reason)
    try:
        open_state(home).close()
    except StateError as error:
        return Finding("state folder", Verdict.FAIL, error.public, _STATE, error.reason)
    return Finding("state folder", Verdict.OK, f"local disk ({file_system(home.path) or 'type unknown'})")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    verdict = Verdict.OK if free >= _LOW_DISK else Verdict.WARN if free >= _NO_DISK else Verdict.FAIL
    remedy = "" if verdict is Verdict.OK else "make room; ingest, hashing and the query ledger need it"
    return Finding("disk", verdict, f"{free / (1 << 30):.1f} GiB free", remedy)


def _archive(home: Home, config: NodeConfig) -> Finding:
    root = archive_root(home, config)
    if config.archive.stac is not None and not root.exists():
        return Finding("archive", Verdict.WARN, "nothing of it was fetched yet", "run `rsfed node ingest`")
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be searched
        return Finding("archive", Verdict.FAIL, f"{root} is not there", "mount it, or correct [archive] path")
    if not os.access(root, os.R_OK | os.X_OK):
        return Finding("archive", Verdict.FAIL, f"{root} cannot be listed", "let this user read it")
    return Finding("archive", Verdict.OK, f"{root} can be listed")


def _policy(home: Home, config: NodeConfig) -> Finding:
    level, release = policy(config.policy.level), ReleaseStore(home.releases).current()
    codebook = release is None or bool(release.manifest.codebook)  # the row of the release says that there is none
    try:
        with Catalogue(home) as catalogue:
            acquisitions = catalogue.acquisitions()
    except StateError:  # the row of the state folder says why
        acquisitions = level.least_acquisitions
    if lacks := lacking(level, acquisitions, codebook=codebook):
        remedies = [_FEW_ACQUISITIONS] * (acquisitions < level.least_acquisitions) + [_NO_CODEBOOK] * (not codebook)
        found = f"level {level.level} does not start, nothing is answered: {lacks}; "
        found += f"the archive has {acquisitions} acquisitions"
        return Finding("policy", Verdict.WARN, found, "; ".join(remedies), "" if codebook else "NO_CODEBOOK")
    return Finding("policy", Verdict.OK, f"level {level.level}")


def _borders(home: Home, config: NodeConfig) -> list[Finding]:
    """Check the file of borders where countries are told; nothing elsewhere."""
    try:
        countries = detail_of(home, config.policy).countries
    except ConfigError as error:
        return [Finding("borders", Verdict.FAIL, error.public, _BORDERS, error.reason)]
    if countries is None:
        return []
    at_sea = False
    found = f"{len(countries.boxes)} countries in {config.policy.countries}"
    with suppress(StateError), Catalogue(home) as catalogue:  # the row of the state folder says why
        at_sea = all_at_sea(catalogue.connection, countries)
    if at_sea:
        return [Finding("borders", Verdict.WARN, f"{found}, and no patch of the archive lies in one", _AT_SEA)]
    return [Finding("borders", Verdict.OK, found)]


def _spending(home: Home, config: NodeConfig) -> list[Finding]:
    """Find what is given away no more before the next release; nothing where what was spent is known."""
    try:
        with Catalogue(home) as catalogue:
            level, release = policy(config.policy.level), ReleaseStore(home.releases).current()
            errors = closed(home, catalogue.connection, level, release)
    except StateError:  # the row of the state folder says why
        return []
    return [
        Finding(
            "spending",
            Verdict.WARN,
            error.public,
            _AUDIT_LOG if error.reason.startswith("AUDIT_") else _NEXT_RELEASE,
            error.reason,
        )
        for error in errors
    ]


def _threads(config: NodeConfig) -> Finding:
    wanted, cores = config.training.threads, len(os.sched_getaffinity(0))
    if wanted > cores:
        return Finding("threads", Verdict.WARN, f"{wanted} for training on {cores} cores", "lower [training] threads")
    return Finding("threads", Verdict.OK, f"{wanted} for training on {cores} cores")


def _certificate(home: Home, now: datetime) -> Finding:
    identity = _identity(home)
    if isinstance(identity, RsfedError):
        remedy = "`rsfed node join TOKEN`" if identity.reason == "NOT_JOINED" else "restore a backup or join again"
        return Finding("certificate", Verdict.FAIL, identity.public, remedy, identity.reason)
    leaf = identity.chain[0]
    days = (leaf.not_valid_after_utc - now) / timedelta(days=1)
    try:
        check_identity(identity, now=now)
    except NotAdmitted as error:
        remedy = _CERTIFICATE_REMEDIES.get(
            error.reason, "check this machine's clock, else ask the coordinator's operator"
        )
        return Finding("certificate", Verdict.FAIL, error.public, remedy, error.reason)
    if needs_renewal(leaf, now=now):
        return Finding(
            "certificate", Verdict.WARN, f"{days:.0f} days left", "start `rsfed node serve`, which renews it"
        )
    return Finding("certificate", Verdict.OK, f"{days:.0f} days left")


def _trust_bundle(home: Home, now: datetime) -> Finding:
    identity = _identity(home)
    if isinstance(identity, RsfedError):
        return Finding("trust bundle", Verdict.WARN, "none", "it comes with `rsfed node join`")
    bundle = identity.bundle
    if bundle.expires <= now or bundle.stale(now):
        return Finding(
            "trust bundle",
            Verdict.FAIL,
            "not confirmed for more than 24 hours, so nobody is believed",
            "start `rsfed node serve` where the coordinator can be reached, and check this machine's clock",
            "REVOCATION_STALE",
        )
    return Finding("trust bundle", Verdict.OK, f"version {bundle.version}")


def _release(home: Home, config: NodeConfig, now: datetime) -> Finding:
    release = ReleaseStore(home.releases).current()
    if release is None:
        return Finding("release", Verdict.WARN, "none", "`rsfed node serve` fetches it once the coordinator has one")
    if release.manifest.expired(now):
        found = f"release {release.manifest.version} has expired"
        return Finding(
            "release", Verdict.FAIL, found, "ask the coordinator's operator for a new one", "RELEASE_EXPIRED"
        )
    if found := mismatch(config.archive.modality, release.manifest) or _lost(home, release.manifest):
        return Finding("release", Verdict.FAIL, found, REMEDY)
    return Finding("release", Verdict.OK, f"release {release.manifest.version}, {release.manifest.bits} bits")


def _lost(home: Home, manifest: Manifest) -> str:
    """Return why patches cannot be searched, "" where all can; a state that does not open has a row of its own."""
    try:
        with Catalogue(home) as catalogue:
            return finding(catalogue.modalities(), manifest)
    except StateError:
        return ""


def _serve(connected: bool | None) -> Finding:
    if connected is None:
        return Finding("serve", Verdict.WARN, "not running", "start `rsfed node serve`")
    if not connected:
        return Finding("serve", Verdict.WARN, "running, coordinator not reached lately", "see the row `coordinator`")
    return Finding("serve", Verdict.OK, "running")


def _clock(answer: Coordinator) -> Finding:
    before, after = answer.asked
    ahead = before + (after - before) / 2 - answer.clock
    found = f"{abs(ahead).total_seconds():.1f} s {'ahead of' if ahead > timedelta() else 'behind'} the coordinator's"
    if abs(ahead) > MAX_SKEW:
        return Finding("clock", Verdict.FAIL, found, "set both clocks by a time server (NTP)", "CLOCK_SKEW")
    return Finding("clock", Verdict.OK, found)


def _way_back(answer: Coordinator) -> Finding:
    if answer.dialled_back is None:
        return Finding("way back", Verdict.WARN, "not checked", "start `rsfed node serve`, then run doctor again")
    if not answer.dialled_back:
        return Finding(
            "way back",
            Verdict.FAIL,
            "the coordinator cannot dial this node",
            "check [serve] advertise in node.toml, and that firewalls let the coordinator reach that port",
        )
    return Finding("way back", Verdict.OK, "the coordinator can dial this node")


def _identity(home: Home) -> Identity | RsfedError:
    try:
        return load_identity(home.identity)
    except RsfedError as error:
        return error
