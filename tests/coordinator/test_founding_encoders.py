"""Founding a federation on another network than the usual one, and what its later runs are held to."""

import sys

import pytest
from onnx_maker import tiny_trunk

from coordinator.releases import current_release
from coordinator.training.runs import make_plan
from rsfed.cli import run
from rsfed.config import CoordinatorConfig, load_config
from rsfed.config_objectives import CentresSection
from rsfed.errors import ConfigError, ExitCode
from rsfed.trust.manifest import FrozenTrunk, KBranch
from rsfed.trust.release_store import ReleaseStore


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_trunk(size=32))
    return path


@pytest.fixture
def init(tmp_path, capsys):
    """Type init; returns exit code and standard error."""

    def command(*options):
        code = run(["coordinator", "init", "alps", "--home", str(tmp_path / "new"), *map(str, options)])
        return code, capsys.readouterr().err

    return command


def release(folder):
    return current_release(ReleaseStore(folder / "new" / "releases"))


def plan(folder, text, rounds=2):
    """The plan of a run after a change of coordinator.toml."""
    path, found = folder / "new" / "coordinator.toml", release(folder).manifest.encoders["rgb"].architecture
    old, new = text
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    trunk = found if isinstance(found, FrozenTrunk) else None
    return make_plan(load_config(CoordinatorConfig, path.parent), rounds, trunk)


def test_the_trunk_is_in_the_first_release_and_decides_the_input(tmp_path, init, model):
    assert init("--trunk", model)[0] == ExitCode.DONE
    (encoder,) = release(tmp_path).manifest.encoders.values()
    assert isinstance(encoder.architecture, FrozenTrunk)
    assert [entry.name for entry in release(tmp_path).manifest.files()] == ["weights.safetensors", "trunk.onnx"]
    assert release(tmp_path).file(encoder.architecture.trunk).read_bytes() == model.read_bytes()
    (group,) = encoder.input.groups
    assert (group.size, group.offset, group.scale) == (32, (127.5,) * 3, (127.5,) * 3)
    config = load_config(CoordinatorConfig, tmp_path / "new")
    again = make_plan(config, 5, encoder.architecture)
    assert (config.learns_by.name, config.pace, again.rounds) == ("closed_form", (1, 1), 1)
    trained = config.model_copy(update={"objective": CentresSection()})
    assert (trained.pace, make_plan(trained, 5, encoder.architecture).local_steps) == ((60, 5), 5), "short rounds"
    assert (again.input, again.architecture) == (encoder.input, encoder.architecture), "runs go on from this release"


def test_from_scratch_rounds_are_longer_and_what_is_said_goes_before(tmp_path, init):
    assert init()[0] == ExitCode.DONE
    assert load_config(CoordinatorConfig, tmp_path / "new").pace == (10, 40)
    assert plan(tmp_path, ("[training]", "[training]\nlocal_steps = 7")).local_steps == 7


def test_the_normalisation_of_a_trunk_may_be_another_than_the_modalitys(tmp_path, init, model, monkeypatch):
    monkeypatch.setenv("RSFED_COORDINATOR__ENCODER__OFFSET", "[123.7, 116.3, 103.5]")
    monkeypatch.setenv("RSFED_COORDINATOR__ENCODER__SCALE", "[58.4, 57.1, 57.4]")
    assert init("--trunk", model)[0] == ExitCode.DONE
    (group,) = release(tmp_path).manifest.encoders["rgb"].input.groups
    assert (group.offset, group.scale) == ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))


def test_a_trunk_that_will_not_do_makes_no_federation(tmp_path, init, model):
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no model")
    for options, said in (
        (("--trunk", wrong), "--trunk: "),
        (("--trunk", tmp_path / "none"), "--trunk: "),
        (("--trunk", model, "--size", 64), "--size: the trunk takes 32 pixels"),
        (("--trunk", model, "--kind", "k-branch"), "not both"),
        (("--kind", "frozen-trunk"), "--trunk FILE"),
        (("--kind", "transformer"), "--kind: "),
        (("--kind", "k-branch"), "--kind: "),
        (("--kind", "k-branch", "--modality", "sentinel-2-l2a", "--size", 64), "multiple of 6"),
    ):
        code, err = init(*options)
        assert (code, said in err) == (ExitCode.USAGE, True), err
    code, err = init("--trunk", model, "--modality", "uint16-4")
    assert (code, "the trunk takes 3 bands" in err) == (ExitCode.CONFIGURATION, True), err
    assert not (tmp_path / "new").exists()


def test_without_the_extra_no_federation_is_made_and_the_extra_is_named(tmp_path, init, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, err = init("--trunk", model)
    assert code == ExitCode.CONFIGURATION
    assert "rsfed[onnx]" in err
    assert not (tmp_path / "new").exists()


def test_a_federation_on_branches_takes_sentinel_2_at_its_native_sizes(tmp_path, init):
    assert init("--kind", "k-branch", "--modality", "sentinel-2-l2a")[0] == ExitCode.DONE
    (encoder,) = release(tmp_path).manifest.encoders.values()
    assert isinstance(encoder.architecture, KBranch)
    assert [group.size for group in encoder.input.groups] == [120, 60, 20]


def test_a_run_keeps_to_the_trunk(tmp_path, init, model):
    init("--trunk", model)
    with pytest.raises(ConfigError, match=r"32 pixels; encoder\.size says 64"):
        plan(tmp_path, ("size = 32", "size = 64"))
    with pytest.raises(ConfigError, match="takes 3 bands"):
        plan(tmp_path, ('modality = "rgb"', 'modality = "uint8-4"'))


def test_a_trunk_cannot_come_after_the_founding(tmp_path, init):
    init("--size", 32)
    with pytest.raises(ConfigError, match="init --trunk FILE"):
        plan(tmp_path, ('kind = "compact-resnet"', 'kind = "frozen-trunk"'))
