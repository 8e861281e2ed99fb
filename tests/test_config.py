"""Configuration: the file, what the environment lays over it, and problems named with their place."""

import pytest

from coordinator.training.runs import make_plan
from rsfed.config import CoordinatorConfig, NodeConfig, load_config
from rsfed.errors import ConfigError, ExitCode
from rsfed.hashing.plan import parse_plan


@pytest.fixture(autouse=True)
def home(tmp_path):
    (tmp_path / "node.toml").write_text('[serve]\nbind = "127.0.0.1:7443"\n')
    (tmp_path / "coordinator.toml").write_text('federation = "alps"\n')
    return tmp_path


def problem(model, home):
    with pytest.raises(ConfigError) as refused:
        load_config(model, home)
    assert refused.value.exit_code is ExitCode.CONFIGURATION
    return refused.value.public


def test_the_environment_overrides_the_file_and_leaves_the_rest(home, monkeypatch):
    monkeypatch.setenv("RSFED_NODE__SERVE__MAX_CONCURRENT", "7")
    monkeypatch.setenv("RSFED_NODE__POLICY__LEVEL", "partner")
    monkeypatch.setenv("RSFED_NODE__TRAINING__ENABLED", "false")
    monkeypatch.setenv("RSFED_NODE__ARCHIVE__PATH", '"7"')
    monkeypatch.setenv("RSFED_COORDINATOR__SERVE__MAX_CONCURRENT", "9")
    config = load_config(NodeConfig, home)
    assert (config.serve.max_concurrent, config.serve.bind) == (7, "127.0.0.1:7443")
    assert (config.policy.level, config.training.enabled, config.archive.path) == ("partner", False, "7")
    assert load_config(CoordinatorConfig, home).serve.max_concurrent == 9


@pytest.mark.parametrize("variable", ["RSFED_COORDINATOR__FEDERATION__X", "RSFED_COORDINATOR__FEDERATION__X__Y"])
def test_an_override_below_a_value_is_refused_by_its_name(home, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert problem(CoordinatorConfig, home) == f"{variable}: federation is a value, not a section"


def test_an_override_below_another_override_is_refused_by_its_name(home, monkeypatch):
    monkeypatch.setenv("RSFED_NODE__SERVE", "1")
    monkeypatch.setenv("RSFED_NODE__SERVE__BIND", "127.0.0.1:1")
    assert "serve" in problem(NodeConfig, home)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[serve]\nprot = 1\n", "node.toml: serve.prot: unknown key"),
        ("[server]\n", "node.toml: server: unknown key"),
        ('[serve]\nbind = "nowhere"\n', "node.toml: serve.bind: "),
        ("[serve]\nmax_concurrent = 0\n", "node.toml: serve.max_concurrent: "),
        ('[policy]\nlevel = "open"\n', "node.toml: policy.level: "),
        ("[serve\n", "node.toml is not valid TOML"),
    ],
)
def test_problems_of_a_file_are_named_with_their_place(home, text, said):
    (home / "node.toml").write_text(text)
    assert said in problem(NodeConfig, home)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[encoder]\nbits = 17\n", "encoder.bits: "),
        ("[encoder]\nbits = 300\n", "encoder.bits: "),
        ("[encoder]\nsize = 8\n", "encoder.size: "),
        ('[encoder]\nmodality = "infrared"\n', "encoder.modality: unknown modality 'infrared'"),
        ('[encoder]\nkind = "transformer"\n', "encoder.kind: "),
        ('[encoder]\nkind = "k-branch"\n', "encoder: the bands of rgb have one ground sampling distance"),
        ('[encoder]\nkind = "k-branch"\nmodality = "sentinel-2-l2a"\n', "encoder: branches at 10, 20, 60 m need"),
        ("[encoder]\noffset = [1.0]\n", "encoder: offset and scale need one value for each of the 3 bands"),
        ("[encoder]\nscale = [1.0, 0.0, 1.0]\n", "encoder.scale.1: "),
        ('[serve]\nadvertise = "hub"\n', "serve.advertise: must read host:port"),
        ('[serve]\njoin_bind = "0.0.0.0:65536"\n', "serve.join_bind: must read host:port"),
        ("[training]\nbatch = 5000\n", "training.batch: "),
        ("[training]\nlearning_rate = 2.0\n", "training.learning_rate: "),
        ("[training]\nlocal_steps = 1000000\n", "training.local_steps: "),
        ("[training]\nseed = -1\n", "training.seed: "),
        ('[nomenclature.classes]\n"" = 1\n', "nomenclature.classes."),
        ("[nomenclature.classes]\nwater = 65536\n", "nomenclature.classes.water: "),
    ],
)
def test_what_cannot_be_trained_or_served_is_a_problem_of_the_file(home, text, said):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n{text}')
    assert f"coordinator.toml: {said}" in problem(CoordinatorConfig, home)


def test_a_federation_at_the_limits_of_its_configuration_can_be_trained(home):
    (home / "coordinator.toml").write_text(
        'federation = "alps"\n[encoder]\nbits = 256\nsize = 512\nwidth = 256\nblocks = 4\n'
        "[training]\nbatch = 4096\nlearning_rate = 1\nlocal_steps = 100000\nseed = 4611686018427387903\n"
        f'[nomenclature.classes]\n"{"x" * 64}" = 65535\n'
    )
    plan = make_plan(load_config(CoordinatorConfig, home), rounds=10_000)
    assert parse_plan(plan.model_dump_json()) == plan


def test_every_problem_is_named_at_once(home):
    (home / "node.toml").write_text("[serve]\nprot = 1\nmax_concurrent = 0\n")
    assert all(place in problem(NodeConfig, home) for place in ("serve.prot", "serve.max_concurrent"))


def test_unknown_and_wrong_overrides_are_named_with_their_place(home, monkeypatch):
    monkeypatch.setenv("RSFED_NODE__SERVE__PROT", "1")
    monkeypatch.setenv("RSFED_NODE__TRAINING__THREADS", "many")
    said = problem(NodeConfig, home)
    assert "serve.prot: unknown key" in said
    assert "training.threads" in said


def test_a_missing_key_and_a_missing_file_are_named(home):
    (home / "coordinator.toml").write_text("")
    assert "federation" in problem(CoordinatorConfig, home)
    (home / "coordinator.toml").unlink()
    assert "rsfed coordinator init" in problem(CoordinatorConfig, home)
