"""The network and its weights."""

import numpy as np
import pytest
import torch

from rsfed.errors import CodeError, TrainingError
from rsfed.hashing.network import build_network
from rsfed.hashing.weights import from_bytes, get_state, init_weights, set_state, to_bytes
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.modality import modality
from rsfed.trust.manifest import CompactResnet

from .conftest import ARCHITECTURE, BITS, spec_of


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12, 16])
@pytest.mark.parametrize("size", [8, 17, 48])
def test_any_number_of_bands_and_size_gives_one_output_per_bit(bands, size):
    network = build_network(ARCHITECTURE, spec_of(bands, size), BITS)
    outputs = network(torch.randn(3, bands, size, size))
    assert outputs.shape == (3, BITS)
    assert bool(((outputs >= 0) & (outputs <= 1)).all())


@pytest.mark.parametrize("width", [8, 9, 30, 32])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_architecture_a_release_may_name_can_be_built(width, blocks):
    build_network(CompactResnet(width=width, blocks=blocks), spec_of(3), 64)(torch.zeros(1, 3, 16, 16))


def test_the_default_network_is_small():
    network = build_network(CompactResnet(width=16), default_spec(modality("rgb"), 64), 64)
    assert 100_000 < sum(p.numel() for p in network.parameters()) < 600_000


def test_weights_follow_from_the_seed_alone():
    first = init_weights(ARCHITECTURE, spec_of(3), BITS, 7)
    torch.rand(5)
    before = torch.random.get_rng_state()
    assert init_weights(ARCHITECTURE, spec_of(3), BITS, 7) == first
    assert torch.equal(torch.random.get_rng_state(), before), "other users of torch's generator are not disturbed"
    assert init_weights(ARCHITECTURE, spec_of(3), BITS, 8) != first


def test_no_state_depends_on_the_batch():
    network = build_network(ARCHITECTURE, spec_of(3), BITS)
    assert not list(network.buffers()), "running statistics do not average across archives"


def test_untrained_outputs_differ_between_images_and_are_balanced_within_each():
    network = build_network(ARCHITECTURE, spec_of(3), BITS)
    outputs = network(torch.randn(20, 3, 16, 16) * torch.linspace(0.2, 2, 20)[:, None, None, None])
    assert ((outputs.mean(dim=1) - 0.5).abs() < 0.15).all()
    assert torch.cdist(outputs, outputs).max() > 0.5


@pytest.mark.parametrize("patches", [torch.zeros(2, 3, 16, 16), torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)])
def test_maps_without_any_contrast_give_finite_outputs_and_gradients(patches):
    network = build_network(ARCHITECTURE, spec_of(3), BITS)
    network(patches).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_weights_survive_bytes_exactly():
    state = get_state(build_network(ARCHITECTURE, spec_of(3), BITS, seed=1))
    back = from_bytes(to_bytes(state))
    other = build_network(ARCHITECTURE, spec_of(3), BITS, seed=2)
    set_state(other, back)
    assert all((get_state(other)[name] == array).all() for name, array in state.items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("head.bias"),
        lambda s: s.update(extra=np.zeros(3, np.float32)),
        lambda s: s.update({"head.bias": np.zeros(BITS + 1, np.float32)}),
        lambda s: s.update({"head.bias": np.zeros(BITS, np.float64)}),
        lambda s: s.update({"head.bias": np.full(BITS, np.nan, np.float32)}),
        lambda s: s.update({"head.bias": np.full(BITS, np.inf, np.float32)}),
    ],
    ids=["missing", "unknown", "shape", "type", "nan", "infinite"],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(spoil):
    network = build_network(ARCHITECTURE, spec_of(3), BITS, seed=1)
    before, state = get_state(network), get_state(build_network(ARCHITECTURE, spec_of(3), BITS, seed=2))
    spoil(state)
    with pytest.raises(TrainingError) as refusal:
        set_state(network, state)
    assert refusal.value.reason == "WEIGHTS_UNFIT"
    assert all((get_state(network)[name] == array).all() for name, array in before.items())


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64, b"{}"])
def test_bytes_that_are_no_safetensors_are_refused(data):
    with pytest.raises(TrainingError):
        from_bytes(data)


def test_an_input_of_several_groups_and_a_wrong_width_are_refused():
    group = spec_of(3).groups[0]
    several = InputSpec(groups=(group, group.model_copy(update={"name": "more"})))
    with pytest.raises(TrainingError) as refusal:
        build_network(ARCHITECTURE, several, BITS)
    assert refusal.value.reason == "ENCODER_INPUT"
    with pytest.raises(CodeError):
        build_network(ARCHITECTURE, spec_of(3), 20)
