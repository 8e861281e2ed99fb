"""Publishing releases: what is trained becomes signed files in the coordinator's store, for members to fetch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import audit
from coordinator.bundles import current_bundle
from coordinator.keyring import Keyring
from coordinator.registry import highest_announced
from coordinator.state import State
from rsfed.clock import Now, utc_now
from rsfed.errors import ConfigError, ReleaseRefused, StateError
from rsfed.home import Home
from rsfed.trust.bundle import open_bundle
from rsfed.trust.manifest import (
    Calibration,
    CodebookEntry,
    EncoderEntry,
    FileEntry,
    FrozenTrunk,
    Manifest,
    Nomenclature,
    Provenance,
    encoder_pair,
)
from rsfed.trust.release_rules import sign_manifest
from rsfed.trust.release_store import Release, ReleaseStore, chunks_of
from rsfed.v1.federation_pb2 import ReleaseHeader

if TYPE_CHECKING:
    import sqlite3

    from coordinator.training.checkpoints import Base
    from coordinator.training.engine import Trained
    from coordinator.training.runs import Start
    from rsfed.hashing.plan import TrainingPlan

RELEASE_LIFE = timedelta(days=365)
KEPT = 3  # releases: analysts may still ask with codes of an earlier one
WEIGHTS = "weights.safetensors"
PUBLISHED = "release.published"  # kind of an audit entry


class Publisher:
    """Makes releases and keeps them signed by the key that the trust bundle lists.

    Args:
        home: The coordinator's home.
        state: Its database.
        federation: Name of the federation.
        now: Clock.
    """

    def __init__(self, home: Home, state: State, federation: str, *, now: Now = utc_now) -> None:
        self._folder = home.releases
        self._state = state
        self._keyring = Keyring(home)
        self._federation = federation
        self._now = now

    def publish(  # noqa: PLR0913 - what a release is made of
        self,
        plan: TrainingPlan,
        weights: bytes,
        training: Provenance,
        metrics: Mapping[str, float],
        calibration: Calibration | None = None,
        *,
        codebook: tuple[CodebookEntry, ...] = (),
        reach: int = 0,
        trunk: Path | None = None,
    ) -> Release:
        """Sign and store a new release, newer than everything that was published here or announced by a node.

        Args:
            plan: What the weights were trained for: encoder, objective and nomenclature.
            weights: The weights in safetensors form.
            training: How they came to be.
            metrics: Figures by name.
            calibration: How likely a hit is relevant, by distance; None where it was not measured.
            codebook: The code of each class.
            reach: How far from the nearest of them queries may lie, in bits.
            trunk: File of the frozen trunk that the plan names; the current release's where it is left out.

        Raises:
            StateError: the key that signs releases is missing.
            ReleaseRefused: the trunk is not the one that the plan names.
        """
        now = self._now()
        if trunk is None and isinstance(plan.architecture, FrozenTrunk):
            trunk = self.current().file(plan.architecture.trunk)
        store = ReleaseStore(self._folder)
        entry = FileEntry(name=WEIGHTS, size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
        encoder = EncoderEntry(modality=plan.modality, input=plan.input, architecture=plan.architecture, weights=entry)
        # The write lock keeps other commands of this coordinator from publishing at the same time.
        with self._state.writing() as connection:
            known = max((version for version, _ in store.history().highest.values()), default=0)
            manifest = Manifest(
                federation=self._federation,
                version=max(known, highest_announced(connection, known)) + 1,
                created=now,
                expires=now + RELEASE_LIFE,
                bits=plan.bits,
                encoders={plan.modality: encoder},
                objective=plan.objective.model_dump(),
                nomenclature=plan.nomenclature,
                codebook=codebook,
                codebook_reach=reach,
                training=training,
                metrics=dict(metrics),
                calibration={encoder_pair(plan.modality, plan.modality): calibration} if calibration else {},
            )
            files = chain([weights], () if trunk is None else chunks_of(trunk))
            release = self._admit(connection, store, manifest.to_bytes(), files, now)
            _record(connection, release, now)
        store.prune(KEPT)
        return release

    def publish_trained(self, plan: TrainingPlan, trained: Trained, before: Base | None) -> Release:
        """Publish what a run gave; after a crash in the middle, finish that, so that there is one release of it.

        Args:
            plan: What was trained.
            trained: What the run gave.
            before: Release whose weights it started from.
        """
        from rsfed.hashing.weights import to_bytes  # noqa: PLC0415 - loaded only when used

        weights = to_bytes(trained.weights)
        training = Provenance(
            rounds=trained.rounds + (before.rounds if before else 0),
            strategy=trained.strategy,
            nodes=len(trained.nodes),
            summed=trained.summed,
            seed=plan.seed,
            based_on=before.digest.hex() if before else None,
        )
        if (release := self._published(plan, weights, training)) is not None:
            return release
        metrics = {} if trained.loss is None else {"loss": trained.loss}
        codebook, reach = trained.codebook, trained.reach
        return self.publish(plan, weights, training, metrics, trained.calibration, codebook=codebook, reach=reach)

    def _published(self, plan: TrainingPlan, weights: bytes, training: Provenance) -> Release | None:
        """Return the current release where it was made of just these weights and training."""
        release = self.current()
        entry = release.manifest.encoders.get(plan.modality)
        same = entry is not None and entry.weights.sha256 == hashlib.sha256(weights).hexdigest()
        if not same or release.manifest.training != training:
            return None
        with self._state.writing() as connection:
            digests = {entry.data["digest"] for entry in audit.entries(connection, kind=PUBLISHED)}
            if release.digest.hex() not in digests:
                _record(connection, release, self._now())
        return release

    def start(self, plan: TrainingPlan) -> Start:
        """Return the weights that a run starts from: the current release's, where they fit the plan, else fresh ones.

        The closed form learns nothing from earlier weights, so its projections are those of its seed.

        Raises:
            StateError: there is no release.
            ConfigError: NOMENCLATURE_VERSION, the plan has other classes than the release under the same version.
        """
        from coordinator.training.checkpoints import Base  # noqa: PLC0415 - loaded only when used
        from coordinator.training.runs import Start  # noqa: PLC0415 - loaded only when used
        from rsfed.hashing.weights import from_bytes, init_weights  # noqa: PLC0415 - loaded only when used

        release = self.current()
        _check_nomenclature(release.manifest.nomenclature, plan.nomenclature)
        encoder = release.manifest.encoders.get(plan.modality)
        wanted = (plan.bits, plan.input, plan.architecture)
        if encoder and not plan.closed_form and (release.manifest.bits, encoder.input, encoder.architecture) == wanted:
            base = Base(release.manifest.version, release.digest, release.manifest.training.rounds)
            return Start(from_bytes(release.weights(plan.modality).read_bytes()), base)
        return Start(from_bytes(init_weights(plan.architecture, plan.input, plan.bits, plan.seed)))

    def current(self) -> Release:
        """Return the release that is served.

        Raises:
            StateError: there is none, or it was damaged.
        """
        return current_release(ReleaseStore(self._folder))

    def trunk(self) -> FrozenTrunk | None:
        """Return the frozen trunk of the current release, where it has one.

        Raises:
            StateError: there is no release.
        """
        known = (encoder.architecture for encoder in self.current().manifest.encoders.values())
        return next((each for each in known if isinstance(each, FrozenTrunk)), None)

    def renew_signature(self) -> bool:
        """Sign the current release again if its key has left the trust bundle, and say whether that was needed.

        Raises:
            StateError: there is no release, or the key that signs is missing.
            ReleaseRefused: it cannot be signed again, for example because it expired.
        """
        with self._state.writing() as connection:
            due = self.current().header.key_id != _signing_key(connection)
            if due:
                self.sign_anew(connection, self._now())
        self.discard_retired_keys()
        return due

    def sign_anew(self, connection: sqlite3.Connection, now: datetime) -> None:
        """Sign the current release by the key of now, in the transaction that made it so."""
        release = self.current()
        self._admit(connection, ReleaseStore(self._folder), release.header.manifest, release.chunks(), now)

    def discard_retired_keys(self) -> None:
        """Delete the keys that sign no more."""
        with self._state.reading() as connection:
            retired = connection.execute("SELECT key_id FROM release_key WHERE retired IS NOT NULL").fetchall()
        for row in retired:
            self._keyring.discard_release_key(row["key_id"])

    def _admit(
        self,
        connection: sqlite3.Connection,
        store: ReleaseStore,
        manifest: bytes,
        files: Iterable[bytes],
        now: datetime,
    ) -> Release:
        """Sign a manifest and let the store verify all of it, as every member's does."""
        key = _signing_key(connection)
        signature = sign_manifest(manifest, self._keyring.release_key(key))
        header = ReleaseHeader(manifest=manifest, signature=signature, key_id=key)
        bundle = open_bundle(current_bundle(connection))
        return store.admit(header, files, bundle, federation=self._federation, now=now)


def current_release(store: ReleaseStore) -> Release:
    """Return the release that is served.

    Raises:
        StateError: there is none, or it was damaged.
    """
    release = store.current()
    if release is None:
        raise StateError("there is no release, or its files are damaged; restore a backup")
    return release


def kept_releases(home: Home, state: State) -> tuple[Release, list[Release]]:
    """Return the release that is served, and all that were published and are still kept, the newest first."""
    store = ReleaseStore(home.releases)
    with state.reading() as connection:
        published = audit.entries(connection, kind=PUBLISHED)  # few among a line for every query
    kept = []
    for entry in reversed(published):
        with suppress(ReleaseRefused):
            kept.append(store.get(bytes.fromhex(entry.data["digest"])))
    return current_release(store), kept


def _record(connection: sqlite3.Connection, release: Release, now: datetime) -> None:
    manifest = release.manifest
    digest, rounds = release.digest.hex(), manifest.training.rounds
    audit.record(connection, now, PUBLISHED, f"release {manifest.version}", digest=digest, rounds=rounds)


def _check_nomenclature(before: Nomenclature, after: Nomenclature) -> None:
    """Check that a version of a nomenclature means the same classes in every release; the first classes are free."""
    told = before.classes and before.name == after.name
    if told and before != after and after.version <= before.version:
        raise ConfigError(
            f"the classes are not those of nomenclature {before.name} {before.version} any more; write "
            f"version = {before.version + 1} under [nomenclature] in coordinator.toml",
            reason="NOMENCLATURE_VERSION",
        )


def _signing_key(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT key_id FROM release_key WHERE retired IS NULL ORDER BY added DESC").fetchone()
    if row is None:
        raise StateError("there is no key that signs releases; restore a backup")
    key: str = row["key_id"]
    return key
