"""The wire codec of tasks: what goes in comes out, and nothing else is ever let in."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as safetensors

from rsfed.errors import InvalidMessage
from rsfed.hashing import payload as codec
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.v1 import training_pb2 as pb

NAMES = st.text(min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SETTINGS = st.one_of(
    st.text(max_size=50),
    st.binary(max_size=50),
    st.booleans(),
    NUMBERS,
    st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1),
)


def sample(**changes) -> Payload:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.full((), 3, np.float32)}
    fields = {
        "arrays": {"arrays": arrays},
        "metrics": {"metrics": {"loss": 0.5}},
        "configs": {"config": {"n": 1, "yes": True, "x": 2.5, "t": "ä", "b": b"\0\1"}},
    }
    return Payload(**({"run_id": 3, "round": 2, "kind": "train"} | fields | changes))


def test_a_payload_comes_back_as_it_was_sent():
    sent = sample()
    got = decode(encode(sent))
    assert (got.run_id, got.round, got.kind, got.error) == (3, 2, "train", "")
    assert got.metrics == sent.metrics
    assert got.configs == sent.configs
    assert [type(v) for v in got.configs["config"].values()] == [
        type(sent.configs["config"][k]) for k in got.configs["config"]
    ]
    for name, array in sent.arrays["arrays"].items():
        assert got.arrays["arrays"][name].dtype == np.float32
        np.testing.assert_array_equal(got.arrays["arrays"][name], array)
        assert got.arrays["arrays"][name].shape == array.shape


@given(st.dictionaries(NAMES, SETTINGS, max_size=8), st.dictionaries(NAMES, NUMBERS, max_size=8))
def test_any_settings_and_numbers_survive_the_wire(settings, metrics):
    got = decode(encode(Payload(1, 1, "train", metrics={"m": metrics}, configs={"c": settings})))
    assert got.configs["c"] == settings
    assert got.metrics["m"] == metrics


def test_equal_payloads_have_equal_bytes_whatever_their_order():
    settings = {f"setting {number}": number for number in range(500)}
    one, other = (sample(configs={"config": each}) for each in (settings, dict(reversed(settings.items()))))
    assert encode(one) == encode(other)


def test_arrays_that_are_not_contiguous_are_sent_right():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    got = decode(encode(sample(arrays={"arrays": {"w": array}})))
    np.testing.assert_array_equal(got.arrays["arrays"]["w"], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_on_both_sides(value):
    bad = {"w": np.array([1, value], np.float32)}
    with pytest.raises(InvalidMessage) as refused:
        encode(sample(arrays={"arrays": bad}))
    assert refused.value.reason == "NOT_FINITE"
    for record in (
        pb.Record(name="a", arrays=safetensors.save(bad)),
        pb.Record(name="a", metrics=pb.MetricMap(values={"loss": value})),
    ):
        with pytest.raises(InvalidMessage) as refused:
            decode(pb.TaskPayload(records=[record]).SerializeToString())
        assert refused.value.reason == "NOT_FINITE"


@pytest.mark.parametrize(
    "message",
    [
        pb.TaskPayload(records=[pb.Record(name="a", arrays=safetensors.save({"w": np.ones(2, np.float64)}))]),
        pb.TaskPayload(records=[pb.Record(name="a", arrays=safetensors.save({"w": np.ones(2, np.int32)}))]),
        pb.TaskPayload(records=[pb.Record(name="a", arrays=b"\x80\x04N.")]),
        pb.TaskPayload(records=[pb.Record(name="a")]),
        pb.TaskPayload(records=[pb.Record(name="a", metrics=pb.MetricMap())] * 2),
        pb.TaskPayload(records=[pb.Record(name=str(n), metrics=pb.MetricMap()) for n in range(17)]),
        pb.TaskPayload(records=[pb.Record(name="a", config=pb.ConfigMap(values={"x": pb.ConfigValue()}))]),
        pb.TaskPayload(
            records=[pb.Record(name="a", config=pb.ConfigMap(values={"x": pb.ConfigValue(real=float("nan"))}))]
        ),
        pb.TaskPayload(
            records=[pb.Record(name="a", config=pb.ConfigMap(values={"x": pb.ConfigValue(text="x" * (1 << 19))}))]
        ),
        pb.TaskPayload(
            records=[pb.Record(name="a", metrics=pb.MetricMap(values={str(n): 0.0 for n in range(5000)}))]
        ),
        pb.TaskPayload(records=[pb.Record(name="n" * 300, metrics=pb.MetricMap())]),
        pb.TaskPayload(error="the image /data/secret.tif is broken"),
    ],
    ids=[
        "float64", "int32", "pickle", "empty record", "same name twice", "too many records", "empty setting",
        "setting not finite", "long setting", "too many entries", "long name", "free text as error",
    ],
)  # fmt: skip
def test_what_breaks_the_rules_is_refused_with_one_reason(message):
    with pytest.raises(InvalidMessage) as refused:
        decode(message.SerializeToString())
    assert refused.value.reason == "PAYLOAD_MALFORMED"


def test_a_payload_beyond_the_size_limit_is_not_even_parsed(monkeypatch):
    data = encode(sample())
    monkeypatch.setattr(codec.check_size, "__defaults__", (len(data) - 1,))
    with pytest.raises(InvalidMessage) as refused:
        decode(data)
    assert refused.value.reason == "PAYLOAD_TOO_LARGE"
    with pytest.raises(InvalidMessage):
        encode(sample())


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(mutant)) if mutant else 0
        match rng.randrange(3):
            case 0 if mutant:
                mutant[place] = rng.randrange(256)
            case 1:
                del mutant[place:]
            case _:
                mutant.insert(place, rng.randrange(256))
    return bytes(mutant)


def attempt(data: bytes):
    try:
        return decode(data), ""
    except InvalidMessage as error:
        return None, error.reason


@pytest.mark.parametrize("seed", range(4))
def test_mutants_are_refused_by_reason_or_hold_only_finite_float32(seed):
    rng = random.Random(seed)
    whole, inner = encode(sample()), safetensors.save(sample().arrays["arrays"])
    for number in range(20_000):
        if number % 2:
            mutant = mutate(whole, rng)
        else:
            mutant = pb.TaskPayload(records=[pb.Record(name="a", arrays=mutate(inner, rng))]).SerializeToString()
        got, reason = attempt(mutant)
        if got is None:
            assert reason in {"PAYLOAD_MALFORMED", "NOT_FINITE"}
            continue
        for group in got.arrays.values():
            assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in group.values())
