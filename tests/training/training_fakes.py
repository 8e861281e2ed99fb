"""What the tests of training share: a small plan, results that nodes send, and members with real certificates."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rsfed.clock import utc_now
from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.hashing.calibration import PairCounts, to_records
from rsfed.hashing.codebook import CodeCounts, to_arrays
from rsfed.hashing.payload import Payload, decode, digest, encode
from rsfed.hashing.plan import EVALUATE, PREFLIGHT, TRAIN, TrainingPlan
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.trust.bundle import open_bundle, sign_bundle
from rsfed.trust.certificates import issue_leaf, make_ca, make_csr, to_der
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import CompactResnet, FederationClass, Nomenclature
from rsfed.trust.names import MemberId, Role
from rsfed.trust.release_rules import key_id
from rsfed.v1.federation_pb2 import TrustBundle

CLASSES = ("field", "forest", "water")


def small_plan(**changes) -> TrainingPlan:
    settings = {
        "modality": "rgb",
        "input": default_spec(modality("rgb"), 16),
        "architecture": CompactResnet(width=8, blocks=1),
        "bits": 16,
        "objective": DEFAULT_OBJECTIVE,
        "nomenclature": Nomenclature(
            classes=tuple(FederationClass(id=10 + n, name=name) for n, name in enumerate(CLASSES))
        ),
        "rounds": 3,
        "local_steps": 4,
        "batch": 8,
        "learning_rate": 1e-3,
        "seed": 7,
    }
    return TrainingPlan(**(settings | changes))


def weights(value: float = 0.0) -> dict[str, np.ndarray]:
    return {"w": np.full((2, 3), value, np.float32), "scale": np.full((), value, np.float32)}


def result_of(task: bytes, *, step: float = 1.0, examples: float = 10, loss: float = 0.5, **changes) -> bytes:
    """What an honest node sends: the weights of the task, moved by a step; counts when it is asked to count.

    Asked whether it takes part, it says yes.
    """
    payload = decode(task)
    if payload.kind == PREFLIGHT:
        return encode(Payload(payload.run_id, payload.round, payload.kind))
    if payload.kind == EVALUATE:
        return counts_of(task)
    moved = {name: array + np.float32(step) for name, array in payload.arrays["arrays"].items()}
    metrics = {"num-examples": examples, "loss": loss, "seconds": 0.1}
    fields = {"arrays": {"arrays": moved}, "metrics": {"metrics": metrics}} | changes
    return encode(Payload(payload.run_id, payload.round, payload.kind, **fields))


def pair_counts(pairs=(60.0, 40.0, 20.0), relevant=(55.0, 20.0, 5.0), *, bits: int = 16, **changes) -> PairCounts:
    """Counts of the nearest distances, the same in both folds."""
    by_distance = np.zeros((2, 2, bits + 1))
    by_distance[0, :, : len(pairs)], by_distance[1, :, : len(relevant)] = pairs, relevant
    fields = {"chance": 0.3 * by_distance[0].sum(), "queries": 12, "acquisitions": 3, "held_out_by": "acquisition"}
    return PairCounts(*by_distance, **(fields | changes))


def code_counts(*, bits: int = 16, behind=(8.0, 0.0, 6.0)) -> CodeCounts:
    """Counts of the codes of two classes: all bits of the first are set, no bit of the last."""
    behind = np.array(behind)
    set_bits = np.outer(behind * [1, 1, 0], np.ones(bits))
    return CodeCounts(set_bits, behind, np.eye(bits + 1)[2] * 3)


def counts_of(task: bytes, counts: PairCounts | None = None) -> bytes:
    """What an honest node sends for calibration."""
    payload = decode(task)
    arrays, metrics = to_records(counts or pair_counts())
    arrays |= to_arrays(code_counts())
    return encode(Payload(payload.run_id, payload.round, payload.kind, {"arrays": arrays}, {"metrics": metrics}))


def in_rounds(answer):
    """Answer as given in the rounds, and honestly when asked to take part or to count for calibration."""
    return lambda task: answer(task) if decode(task).kind == TRAIN else result_of(task)


def deliver(board, task, result: bytes, *, node: str | None = None, chunk: int = 1 << 20) -> None:
    for offset in range(0, len(result), chunk):
        expected = (len(result), digest(result))
        board.receive(node or task.node, task.id, expected, offset, result[offset : offset + chunk])


async def until(condition, *, seconds: float = 30.0):
    """Wait for a state, and return it."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):  # noqa: ASYNC110 - the state may be another thread's
            await asyncio.sleep(0.01)
    return found


async def answer_tasks(board, name: str, answer) -> None:
    """A node without a network: takes its tasks from the board and delivers what `answer(task)` returns, if any."""
    while True:
        task = await board.next_task(name, 5)
        if task is None or (result := answer(task.payload.read())) is None:
            await asyncio.sleep(0.01)  # a board that stops sends everybody away at once
            continue
        deliver(board, task, result)


@dataclass
class Members:
    """A federation in memory: its bundle and the identities of its members."""

    coordinator: Identity
    nodes: dict[str, Identity]

    @property
    def bundle(self):
        return self.coordinator.bundle


def make_members(*names: str, release_key=None, federation: str = "testing") -> Members:
    now = utc_now()
    ca_key, ca = make_ca(federation, now=now)
    head = MemberId(federation, Role.COORDINATOR, "coordinator")
    proto = TrustBundle(federation=federation, version=1, ca_certificates=[to_der(ca)], coordinator=head.uri)
    proto.created.FromDatetime(now)
    proto.expires.FromDatetime(now + timedelta(days=1))
    if release_key is not None:
        public = release_key.public_key()
        proto.release_keys.add(key_id=key_id(public), public_key=public.public_bytes_raw())
    bundle = open_bundle(sign_bundle(proto, [(ca, ca_key)]))

    def identity(member: MemberId) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = issue_leaf(ca_key, ca, make_csr(key), member, now=now)
        return Identity(member, key, (leaf, ca), X25519PrivateKey.generate(), bundle)

    return Members(identity(head), {name: identity(MemberId(federation, Role.NODE, name)) for name in names})
