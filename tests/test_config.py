"""Configuration: the file, what the environment lays over it, and problems named with their place."""

import json

import pytest

from coordinator.training.runs import make_plan
from rsfed.config import CoordinatorConfig, NodeConfig, load_config
from rsfed.config_objectives import (
    BatchAllSection,
    CentresSection,
    ClosedFormSection,
    ContrastiveSection,
    MilanSection,
    PairwiseSection,
    recorded_objective,
)
from rsfed.errors import ConfigError, ExitCode
from rsfed.hashing.plan import parse_plan
from rsfed.trust.manifest import ReducedResnet


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


def test_an_analyst_is_answered_less_strictly_only_where_the_operator_says_so(home):
    path, own = home / "node.toml", 'analysts.ada = {{ level = "{}"{} }}'
    path.write_text("[policy]\n" + own.format("partner", ""))
    assert "loosen = true" in problem(NodeConfig, home)
    path.write_text("[policy]\n" + own.format("partner", ", loosen = true"))
    assert load_config(NodeConfig, home).policy.analysts["ada"].level == "partner"
    path.write_text('[policy]\nlevel = "partner"\n' + own.format("guarded", ""))
    assert load_config(NodeConfig, home).policy.analysts["ada"].level == "guarded"
    path.write_text('[policy]\nlevel = "catalogue"\n' + own.format("counts", ""))
    assert "every member may read what is published" in problem(NodeConfig, home)


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
        ('[policy]\nlevel = "open"\n', "node.toml: policy.level: \"open\" is none of 'partner'"),
        (
            '[policy]\nunfilterable = ["time", "lable"]\n',
            "policy.unfilterable.1: \"lable\" is none of 'time', 'bbox', 'modality' or 'label'",
        ),
        ('[policy]\nunfilterable = "label"\n', 'policy.unfilterable: write a list: ["label"]'),
        ('[policy]\nfootprints = "country"\n', 'policy: footprints = "country" needs the borders: name a GeoJSON file'),
        ('[policy]\nfootprints = "country"\ncountries = ""\n', 'policy: footprints = "country" needs the borders'),
        ('[policy]\ncountries = "b.geojson"\n', 'policy: countries is for footprints = "country"; write that, or take'),
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
        (
            '[encoder]\nkind = "k-branch"\nmodality = "sentinel-2-l2a"\nsize = 120\nreduction = 4\n',
            "encoder: k-branch takes",
        ),
        ('[encoder]\nkind = "frozen-trunk"\nreduction = 4\n', "encoder: frozen-trunk takes full"),
        ("[encoder]\nsize = 250\nreduction = 4\n", "encoder: with a reduction of 4 size has to be a multiple of it"),
        ("[encoder]\nreduction = 3\n", "encoder.reduction: "),
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
        ("[nomenclature.classes]\nwater = 1\nice = 1\n", "nomenclature.classes: two classes have the id 1"),
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


def test_a_reduced_encoder_reads_the_ground_of_its_size_at_a_coarser_resolution(home):
    (home / "coordinator.toml").write_text(
        'federation = "alps"\n[encoder]\nmodality = "sentinel-2-l2a"\nsize = 120\nreduction = 4\nwidth = 24\n'
    )
    plan = make_plan(load_config(CoordinatorConfig, home), rounds=2)
    assert plan.architecture == ReducedResnet(width=24)
    assert (plan.input.reduction, plan.input.groups[0].size, plan.input.groups[0].gsd) == (4, 30, 40)
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


def objective_of(home, toml):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n[objective]\n{toml}')
    return load_config(CoordinatorConfig, home).learns_by


def test_each_objective_is_chosen_by_its_name_and_has_options_of_its_own(home):
    assert load_config(CoordinatorConfig, home).learns_by == CentresSection()
    assert objective_of(home, "within = 0.3") == CentresSection(within=0.3), "the default, without its name"
    assert objective_of(home, 'name = "milan_batchall"\nmargin = 0.3') == BatchAllSection(margin=0.3)
    assert objective_of(home, 'name = "milan"') == MilanSection()
    assert objective_of(home, 'name = "centres"\nfree = 0') == CentresSection(free=0)
    assert objective_of(home, 'name = "pairwise"\nscale = 4') == PairwiseSection(scale=4)
    assert objective_of(home, 'name = "contrastive"') == ContrastiveSection()


TRUNK = '[encoder]\nkind = "frozen-trunk"\n'


def learnt_by(home, toml):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n{toml}')
    return load_config(CoordinatorConfig, home).learns_by


def test_a_frozen_trunk_is_solved_for_in_closed_form_unless_rounds_are_asked_for(home):
    assert learnt_by(home, TRUNK) == ClosedFormSection()
    assert learnt_by(home, TRUNK + '[objective]\nname = "closed_form"\nfree = 0') == ClosedFormSection(free=0)
    assert learnt_by(home, TRUNK + '[objective]\nname = "centres"') == CentresSection()
    assert learnt_by(home, TRUNK + '[strategy]\nname = "fedmedian"') == CentresSection()
    assert learnt_by(home, TRUNK + "[closed_form]\nend = true") == CentresSection(), (
        "as before there was the closed form"
    )
    assert learnt_by(home, TRUNK + "[training]\nlocal_steps = 5") == CentresSection()


@pytest.mark.parametrize(
    "toml",
    ['[objective]\nname = "closed_form"', TRUNK + '[objective]\nname = "closed_form"\n[strategy]\nname = "krum"'],
)
def test_the_closed_form_needs_a_frozen_trunk_and_takes_no_strategy(home, toml):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n{toml}')
    assert 'set encoder.kind = "frozen-trunk" and take [strategy] out' in problem(CoordinatorConfig, home)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('name = "centres"\nmargin = 0.2', "objective.centres.margin: unknown key"),
        ('name = "milan_batchall"\nbeta_1 = 0.5', "objective.milan_batchall.beta_1: unknown key"),
        ('name = "contrastive"\nfree = 0.2', "objective.contrastive.free: unknown key"),
        ('name = "batch-hard"', "'milan', 'milan_batchall', 'centres', 'closed_form', 'pairwise', 'contrastive'"),
        ('name = "centres"\nfree = 0.6', "objective.centres.free"),
        ('name = "milan"\npush = inf', "objective.milan.push"),
        ('name = "contrastive"\ntemperature = 0', "objective.contrastive.temperature"),
    ],
)
def test_no_option_of_another_objective_is_silently_ignored(home, toml, said):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n[objective]\n{toml}')
    assert said in problem(CoordinatorConfig, home)


def test_the_environment_chooses_an_objective(home, monkeypatch):
    monkeypatch.setenv("RSFED_COORDINATOR__OBJECTIVE__NAME", "centres")
    assert load_config(CoordinatorConfig, home).learns_by == CentresSection()


@pytest.mark.parametrize(
    "section", [BatchAllSection(), MilanSection(), CentresSection(), PairwiseSection(), ContrastiveSection()]
)
def test_an_objective_comes_back_from_a_plan_and_a_release_as_it_was_written(home, section):
    config = load_config(CoordinatorConfig, home).model_copy(update={"objective": section})
    assert parse_plan(make_plan(config, 1).model_dump_json()).objective == section
    assert recorded_objective(json.loads(section.model_dump_json())) == section


def test_what_older_software_called_milan_is_trained_as_before(home):
    older = {"name": "milan", "margin": 0.25, "push": 0.001, "balance": 1.0}
    plan = json.loads(make_plan(load_config(CoordinatorConfig, home), 1).model_dump_json()) | {"objective": older}
    assert parse_plan(json.dumps(plan)).objective == recorded_objective(older) == BatchAllSection(margin=0.25)


def test_an_objective_of_newer_software_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="update rsfed"):
        recorded_objective({"name": "quantum"})
