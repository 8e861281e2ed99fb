"""The node's word: node.toml bounds what training may do, and a preflight says what would be refused."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from test_training_archive import COUNTS, start_weights
from training_archive import make_archive
from training_fakes import CLASSES, small_plan

import rsfed
from node.state import open_state
from node.training import bounds, journal
from node.training.adapter import run_task
from node.training.client_app import app
from rsfed.config import NodeTraining
from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection
from rsfed.errors import ConfigError, TrainingError
from rsfed.hashing.payload import Payload, decode, encode
from rsfed.hashing.plan import EVALUATE, PREFLIGHT, TRAIN
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.trust.manifest import FederationClass, Nomenclature

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def make(tmp_path, members, key):
    return lambda counts=COUNTS, **more: make_archive(tmp_path / "node", counts, members=members, key=key, **more)


def ask(home, kind, *, plan=None, **settings):
    """Give a node a task, as the coordinator of this software words it but for the given settings."""
    plan = plan or small_plan()
    config = {"plan": plan.model_dump_json(), "server-round": 1, "members": 3, "software": rsfed.__version__} | settings
    arrays = {} if kind == PREFLIGHT else {"arrays": start_weights(plan)}
    return decode(run_task(app, home.path, encode(Payload(1, 1, kind, arrays, configs={"config": config}))))


def log(home, *ended, state=journal.DONE, kind=TRAIN, sent=9):
    """Note tasks that ended so many hours ago."""
    with closing(open_state(home)) as connection:
        for hours in ended:
            row = journal.begin(connection, 1, 1, kind, 9, now=lambda h=hours: datetime.now(UTC) - timedelta(hours=h))
            journal.end(connection, row, state=state, sent=sent, seconds=1, loss=None)


def other_hours() -> str:
    """Hours of the day that begin in some time."""
    hour = datetime.now().astimezone().hour
    return f"{(hour + 2) % 24}-{(hour + 4) % 24}"


def test_a_node_that_can_take_part_says_so_and_nothing_else(make):
    answer = ask(make(), PREFLIGHT)
    assert answer == Payload(1, 1, PREFLIGHT)


BOUNDS = {
    "TRAINING_DISABLED": ("enabled = false", {}),
    "OBJECTIVE_REFUSED": ('objectives = ["milan", "pairwise"]', {}),
    "OUTSIDE_HOURS": ("hours = '{hours}'", {}),
    "TOO_FEW_MEMBERS": ("min_others = 3", {}),
    "PLAN_LIMITS": ("max_epochs = 1.7", {}),  # 4 steps of 8 of 18 patches are 1.78
}


@pytest.mark.parametrize("kind", [PREFLIGHT, TRAIN])
@pytest.mark.parametrize("reason", BOUNDS)
def test_what_goes_beyond_the_operators_bounds_is_refused_beforehand_and_in_a_round(make, reason, kind):
    training, settings = BOUNDS[reason]
    home = make(training=training.format(hours=other_hours()))
    answer = ask(home, kind, **settings)
    assert (answer.error, answer.arrays, answer.metrics) == (reason, {}, {})


@pytest.mark.parametrize("kind", [PREFLIGHT, TRAIN])
def test_what_is_within_the_bounds_is_done(make, kind):
    home = make(
        training='max_epochs = 1.8\nmin_others = 2\nhours = "0-0"\nobjectives = ["centres"]\n'
        "rounds_per_day = 2\nmax_steps = 4"
    )
    log(home, 25, 30, 1)
    log(home, 1, 2, 3, state="TASK_EXPIRED", sent=0)
    log(home, 1, 2, 3, kind=EVALUATE)
    assert ask(home, kind).error == ""
    log(home, 23, state="TASK_EXPIRED")  # the coordinator says that it came too late, and may have it all
    assert ask(home, kind).error == "ROUNDS_PER_DAY"


def test_a_coordinator_that_does_not_say_how_many_take_part_counts_as_one_with_nobody(make):
    home = make(training="min_others = 1")
    assert ask(home, TRAIN, members="many").error == "TOO_FEW_MEMBERS"


def test_the_calibration_keeps_to_the_hours_and_objectives_too(make):
    home = make(training=f'hours = "{other_hours()}"')
    assert ask(home, EVALUATE).error == "OUTSIDE_HOURS"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [("8-17", [8, 12, 16], [7, 17, 0]), ("20-6", [20, 23, 0, 5], [6, 19, 12]), ("5-5", range(24), [])],
)
def test_hours_may_lie_over_midnight(hours, inside, outside):
    assert all(bounds.within(hours, hour) for hour in inside)
    assert not any(bounds.within(hours, hour) for hour in outside)


@pytest.mark.parametrize("line", ['hours = "8-25"', 'hours = "8"', 'objectives = ["magic"]', 'report = ["labels"]'])
def test_a_bound_that_is_misspelt_is_not_taken_for_none(make, line):
    with pytest.raises(ConfigError):
        make(training=line)


def renamed(version, *, name="classes", ids=(10, 11, 12)):
    names = ("meadow", *CLASSES[1:])
    classes = tuple(FederationClass(id=number, name=each) for number, each in zip(ids, names, strict=True))
    return Nomenclature(name=name, version=version, classes=classes)


@pytest.mark.parametrize(
    ("nomenclature", "reason"),
    [
        (renamed(1), "OTHER_CLASSES"),  # the same version of the same nomenclature says another thing
        (renamed(2), ""),  # a newer one may rename
        (renamed(1, name="corine"), "OTHER_CLASSES"),  # another one uses the same ids for other classes
        (renamed(1, name="corine", ids=(13, 11, 12)), ""),
    ],
)
def test_classes_that_mean_something_else_here_are_told_apart_from_newer_ones(make, nomenclature, reason):
    assert ask(make(), PREFLIGHT, plan=small_plan(nomenclature=nomenclature)).error == reason


def test_a_run_with_other_bands_is_refused(make):
    home = make()
    optical = small_plan(modality="sentinel-2-l2a", input=default_spec(modality("sentinel-2-l2a"), 16))
    assert ask(home, PREFLIGHT, plan=optical).error == "OTHER_BANDS"
    unknown = small_plan(input=default_spec(replace(modality("rgb"), bands=("red", "green", "mauve")), 16))
    assert ask(home, PREFLIGHT, plan=unknown).error == "OTHER_BANDS"


@pytest.mark.parametrize(("software", "reason"), [("9.9.0", "OTHER_SOFTWARE"), ("0.1.99", "")])
def test_another_version_of_the_software_is_refused_and_a_patch_level_is_not(make, software, reason):
    assert ask(make(), PREFLIGHT, software=software).error == reason


@pytest.mark.parametrize(
    ("counts", "objective", "reason"),
    [
        ({}, None, "NO_LABELLED_PATCHES"),
        ({"glacier": 5}, None, "NO_LABELLED_PATCHES"),
        ({"water": 5}, BatchAllSection(), "NOTHING_TO_COMPARE"),
        ({"water": 5}, CentresSection(), ""),
        ({"glacier": 5}, ContrastiveSection(), ""),
        ({"glacier": 1}, ContrastiveSection(), "NOTHING_TO_COMPARE"),
    ],
)
def test_what_the_labels_of_an_archive_do_not_allow_is_said_beforehand(make, counts, objective, reason):
    plan = small_plan(objective=objective) if objective else small_plan()
    assert ask(make(counts), PREFLIGHT, plan=plan).error == reason


def test_the_loss_is_told_rounded_and_only_where_the_operator_lists_it(make, monkeypatch):
    monkeypatch.setattr(bounds, "LEAST_PATCHES", sum(COUNTS.values()))
    monkeypatch.setattr(bounds, "LEAST_ACQUISITIONS", 1)
    home = make(training='report = ["loss"]')
    loss = ask(home, TRAIN).metrics["metrics"]["loss"]
    assert loss == round(loss, 2)
    monkeypatch.setattr(bounds, "LEAST_ACQUISITIONS", 2)  # nothing is known of the archive's acquisitions: one
    assert set(ask(home, TRAIN).metrics["metrics"]) == {"num-examples", "seconds"}


@pytest.mark.parametrize(("patches", "acquisitions", "told"), [(200, 5, True), (199, 5, False), (200, 4, False)])
def test_a_loss_of_few_patches_or_acquisitions_is_not_told(patches, acquisitions, told):
    listed = NodeTraining(report=("loss",))
    expected = {"loss": 0.12} if told else {}
    assert bounds.reported(listed, 0.1234, patches=patches, acquisitions=acquisitions) == expected
    assert bounds.reported(NodeTraining(), 0.1234, patches=patches, acquisitions=acquisitions) == {}


def test_a_bound_holds_for_any_time_zone_of_the_clock():
    limits = NodeTraining(hours="8-17")
    local = NOW.astimezone()
    for hour, allowed in ((9, True), (18, False)):
        moment = local.replace(hour=hour).astimezone(UTC)
        if allowed:
            bounds.check_plan(small_plan(), limits, moment)
        else:
            with pytest.raises(TrainingError) as refused:
                bounds.check_plan(small_plan(), limits, moment)
            assert refused.value.reason == "OUTSIDE_HOURS"
