"""A federation in one process: its rounds are those of both apps, its figures those of naive counts."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_maker import tiny_trunk
from PIL import Image
from rich.console import Console

from coordinator.training.rounds import server_app
from node.training.bare_app import app_over
from node.training.trainer import train_round
from rsfed.cli import run
from rsfed.codes import pack
from rsfed.config import CoordinatorConfig
from rsfed.config_images import EncoderSection
from rsfed.config_objectives import CentresSection, ClosedFormSection
from rsfed.config_strategies import FedAvgSection, default_strategy
from rsfed.errors import TrainingError
from rsfed.hashing import network
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives.sampling import uniform
from rsfed.hashing.plan import PREFLIGHT
from rsfed.hashing.weights import get_state
from rsfed.lab import bench_federated as bench
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.evaluate.division import Division, Split
from rsfed.lab.evaluate.methods import BATCH, Task, describe
from rsfed.lab.federated import learners
from rsfed.lab.federated.measures import merged, own_galleries, union
from rsfed.lab.federated.outputs import WAYS, tables
from rsfed.lab.federated.partition import PARTITIONS, owners
from rsfed.lab.federated.poison import ATTACKS, poisoned
from rsfed.lab.federated.run import ROWS, Case, FederatedSettings, cases, evaluate_federated

CLASSES, EACH = 4, 60
CLOSED = learners.Way(objective=ClosedFormSection())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose classes differ in colour, and a trunk."""
    folder = tmp_path_factory.mktemp("federated")
    (folder / "trunk.onnx").write_bytes(tiny_trunk())
    rng = np.random.default_rng(0)
    for name, colour in enumerate(rng.integers(60, 190, (CLASSES, 3))):
        (folder / "images" / f"class{name}").mkdir(parents=True)
        for number in range(EACH):
            pixels = colour + rng.normal(0, 25, 3) + rng.normal(0, 10, (16, 16, 3))
            path = folder / "images" / f"class{name}" / f"{number}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def task(folder):
    images = read(find(folder / "images"), folder / "trunk.onnx")
    train = np.arange(0, len(images), 2)
    return Task(images, describe(images, train), train, 16, 5, 4)


@pytest.fixture(scope="module")
def told(folder):
    options = ["--split", "random", "--nodes", "3", "--seeds", "2", "--bits", "16,24", "--epochs", "4", "--k", "5"]
    return ["evaluate", str(folder / "images"), "--trunk", str(folder / "trunk.onnx"), "--federated", *options]


@pytest.mark.timeout(600)
def test_every_division_has_six_rows_with_gaps_to_the_best_central_model_on_the_same_splits(told, capsys, monkeypatch):
    monkeypatch.setattr(network, "PROJECTIONS", 256)  # 4,096 take seconds each time
    assert run([*told, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"]["bits"] == 24
    assert [(row["division"], row["way"]) for row in found["rows"]] == [(d, w) for d in PARTITIONS for w in ROWS]
    best = found["central"][found["best_central"]]["mean"]
    assert best == max(each["mean"] for each in found["central"].values())
    for row in found["rows"]:
        assert len(row["runs"]) == 2
        assert 0 <= row["map_found"]["mean"] <= 1
        assert row["gap"]["mean"] == pytest.approx(best - row["map_found"]["mean"])
        if row["way"] == "central":
            assert row["gap"] == {"mean": 0.0, "deviation": 0.0}
        if (row["division"], row["way"]) == ("one-class", "closed_form"):  # every node has enough patches
            assert row["map_found"]["mean"] == pytest.approx(found["central"]["closed_form"]["mean"], abs=0.002)


def test_only_the_ways_that_are_asked_for_are_measured(task, monkeypatch):
    monkeypatch.setattr(network, "PROJECTIONS", 64)
    asked = FederatedSettings(16, 1, 2, Split.RANDOM, 5, 1, ("one-class",), ("closed_form",))
    assert [row.way for row in evaluate_federated(task.images, asked).rows] == ["central", "closed_form"]


def test_the_table_says_how_it_came_about_and_what_each_way_loses(task, capsys, monkeypatch):
    monkeypatch.setattr(network, "PROJECTIONS", 64)
    asked = FederatedSettings(16, 1, 2, Split.RANDOM, 5, 1, ("one-class",))
    found = evaluate_federated(task.images, asked)
    Console(width=160).print(tables(found, "images"))
    out = capsys.readouterr().out
    assert f"240 images of {CLASSES} classes at 2 nodes, 16 bits" in out
    assert f"the best is {found.best}" in out
    lines = [line for line in out.splitlines() if line.startswith("one-class ")]
    for line, row in zip(lines, found.rows, strict=True):
        assert WAYS[row.way] in line
        assert row.way == "central" or f"{100 * row.gap.mean:.1f}" in line.split()


@pytest.mark.timeout(600)
def test_the_bench_tells_gaps_and_what_attacks_cost_in_points(task, monkeypatch):
    monkeypatch.setattr(network, "PROJECTIONS", 64)
    asked = FederatedSettings(16, 1, 4, Split.RANDOM, 5, 1, (bench.SKEWED, bench.MILD))
    found = evaluate_federated(task.images, asked)
    monkeypatch.setattr(bench, "SETTINGS", asked)
    way = learners.default(task.images)
    poison, ucm = bench.poisoned_figures("default", task.images, way), bench.ucm_figures(found)
    rounds = {"whole": [0.9], "packed": [0.89]}
    told = bench.summary(ucm, {"central": {}, "eurosat_gap_a01": 1.5}, poison, rounds)
    gaps = {(row.partition, row.way): 100 * row.gap.mean for row in found.rows}
    assert told["ucm_gap_a1"] == pytest.approx(gaps[bench.MILD, "default"], abs=0.01)
    assert told["fedavg_ucm_gap_a01"] == pytest.approx(gaps[bench.SKEWED, "fedavg"], abs=0.01)
    assert told["eurosat_gap_a01"] == 1.5
    assert not [key for key in told if key.startswith("_") or key == "table"]
    assert told["poison_drop"].keys() == told["poison_drop_a01"].keys() == set(ATTACKS)
    assert told["bytes_map_loss"] == pytest.approx(1.0)
    below = found.central["network"].mean - 0.89
    assert told["rounds_below_network_a01"] == pytest.approx(100 * below, abs=0.01)
    plain = next(row for row in found.rows if (row.partition, row.way) == (bench.MILD, "fedavg")).figure.mean
    [case] = cases(task.images, asked)
    parts = case.parts(bench.MILD, 4)
    calm = case.measure(learners.federated(case.task, parts, way))
    attacked = case.measure(learners.federated(case.task, parts, way, poisoned(ATTACKS["nan"])))
    assert told["poison_drop"]["nan"] == pytest.approx(100 * (calm - attacked), abs=0.01)
    assert told["points_below_fedavg"][bench.MILD] == pytest.approx(100 * (plain - calm), abs=0.01)


def test_lonely_classes_are_those_that_one_node_alone_learns_from(task):
    labels = task.images.labels.argmax(axis=1)
    by_class = [task.train[labels[task.train] == number] for number in range(CLASSES)]
    halves = by_class[0][::2], by_class[0][1::2]
    parts = [np.concatenate([halves[0], by_class[1]]), np.concatenate([halves[1], by_class[2], by_class[3]])]
    queries = np.arange(1, len(labels), 2)
    case = Case(task, Division(task.train, queries, queries, np.arange(len(queries))), 5)
    assert (case.lonely(parts) == (labels[queries] != 0)).all()


def test_what_a_federated_evaluation_cannot_do_is_refused(told, tmp_path, capsys):
    assert run([*told, "--report", str(tmp_path / "report")]) == 2
    assert "--federated goes without --left-out, --timing and --report" in capsys.readouterr().err
    assert run([*told, "--nodes", str(CLASSES + 1)]) == 2
    assert "lower --nodes" in capsys.readouterr().err


def plan_of(task, parts, rounds):
    return learners.plan_of(task, parts, learners.Way(rounds=rounds, strategy=FedAvgSection(), start=False, end=False))


def averaged(plan, sets, start):
    apps = [app_over(each, 1, ["one"] * len(each)) for each in sets]
    return learners.run_over(server_app(), plan, apps, start, FedAvgSection(), least=min(2, len(apps)))


def test_a_federation_of_one_node_is_that_nodes_own_training_round_after_round(task):
    plan, own = plan_of(task, [task.train], 3), task.images.subset(task.train)
    expected = start = get_state(build_network(plan.architecture, task.images.spec, 16))
    for number in (1, 2, 3):
        expected = train_round(plan, number, expected, own, threads=1).arrays
    found = averaged(plan, [own], start)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name] == array).all()


def test_weights_are_the_mean_over_nodes_by_their_patches_and_a_node_without_patches_costs_its_share(task):
    parts = [task.train[:30], task.train[30:40]]
    plan = plan_of(task, parts, 1)
    start = get_state(build_network(plan.architecture, task.images.spec, 16))
    sets = [task.images.subset(part) for part in parts]
    apart = [train_round(plan, 1, start, each, threads=1).arrays for each in sets]
    found = averaged(plan, [*sets, PatchSet((), np.zeros((0, CLASSES), bool), 0)], start)
    for name, array in found.items():
        assert array == pytest.approx(0.75 * apart[0][name] + 0.25 * apart[1][name], abs=1e-6)


def test_the_default_is_that_of_a_coordinator_whose_configuration_says_nothing_of_it(task):
    encoder = EncoderSection(kind="frozen-trunk")
    config = CoordinatorConfig(federation="testing", encoder=encoder)
    way = learners.default(task.images)
    plan = learners.plan_of(task, [task.train], way)
    assert plan.objective == config.learns_by == ClosedFormSection()
    assert way.strategy is None


def test_rounds_are_those_of_a_coordinator_that_asks_for_them_and_says_nothing_else(task):
    encoder = EncoderSection(kind="frozen-trunk")
    config = CoordinatorConfig(federation="testing", encoder=encoder, objective=CentresSection())
    plan = learners.plan_of(task, [task.train], learners.ROUNDS)
    assert (plan.solve_start, plan.solve_end) == (config.solves_start, config.solves_end) == (True, True)
    assert default_strategy(plan.architecture.kind) == config.averages_by
    assert plan.objective == config.learns_by


@pytest.mark.parametrize("way", [learners.ROUNDS, CLOSED])
def test_codes_have_the_width_and_do_not_depend_on_who_is_asked(task, way, monkeypatch):
    monkeypatch.setattr(network, "PROJECTIONS", 64)
    hasher = learners.federated(task, [task.train[:40], task.train[40:]], way)
    codes = hasher(np.arange(10))
    assert codes.shape == (10, 2)
    assert (hasher(np.arange(10)[::-1])[::-1] == codes).all()


def test_who_chooses_the_batches_decides_what_nodes_learn_in_rounds(task):
    seen = []

    def watched(labels, batch, rng):
        seen.append(len(labels))
        return uniform(labels, batch, rng)

    parts, way = [task.train[:40], task.train[40:]], replace(learners.PLAIN, rounds=2, sample=watched)
    everything = np.arange(len(task.images))
    codes = learners.federated(task, parts, way)(everything)
    assert set(seen) == {40, len(task.train) - 40}
    assert not (codes == learners.federated(task, parts, replace(way, sample=None))(everything)).all()


def absent(make, patches, place):
    """The first node agrees to take part and then gives nothing."""
    app = make(patches)

    def refuse(message, context):
        if message.metadata.message_type == PREFLIGHT:
            return app(message, context)
        raise TrainingError("away", reason="TOO_FEW_PATCHES")

    return app if place else refuse


@pytest.mark.parametrize("way", [learners.ROUNDS, CLOSED])
@pytest.mark.parametrize("name", ATTACKS)
def test_updates_and_sums_that_cannot_be_right_count_as_none_and_others_as_those_of_any_node(
    task, name, way, monkeypatch
):
    monkeypatch.setattr(network, "PROJECTIONS", 64)
    parts = [task.train[::3], task.train[1::3], task.train[2::3]]
    everything = np.arange(len(task.images))

    def codes(wrap=None):
        return learners.federated(task, parts, way, wrap)(everything)

    attacked = codes(poisoned(ATTACKS[name]))
    wrong = {"nan", "scale", "signflip"} if way is CLOSED else {"nan", "scale"}  # sums are held against each other
    assert (attacked == codes(absent)).all() == (name in wrong)
    assert not (attacked == codes()).all()


@given(st.integers(1, 100), st.lists(st.integers(1, 3000), min_size=2, max_size=20), st.sampled_from([20, 60]))
def test_a_federation_takes_at_most_the_sample_passes_of_training_in_one_place(epochs, sizes, rounds):
    parts = [range(size) for size in sizes]
    central = epochs * sum(sizes)
    assume(central >= 4 * BATCH * len(sizes))
    taken, steps = learners.steps_of(SimpleNamespace(epochs=epochs), parts, learners.Way(rounds=rounds))
    assert 1 <= taken <= rounds
    assert taken * steps * len(parts) <= 4 * math.ceil(central / BATCH / 4)


def division(rng, images, same):
    gallery = rng.permutation(images)[: images // 2]
    queries = gallery if same else np.setdiff1d(np.arange(images), gallery)
    own = np.arange(len(gallery)) if same else np.full(len(queries), -1)
    return Division(np.arange(0), gallery, queries, own)


def case(seed, nodes=3, images=40, bits=16):
    rng = np.random.default_rng(seed)
    labels = np.eye(CLASSES, dtype=bool)[rng.integers(0, CLASSES, images)]
    codes = np.stack([pack(rng.random((images, bits)) < 0.5) for _ in range(nodes)])
    return rng, SimpleNamespace(labels=labels), codes, rng.integers(0, nodes, images)


def naive(images, division, distance, searched, k):
    """Mean over queries of the precision at the relevant ranks of the first k, where no two distances are equal."""
    found = []
    for place, query in enumerate(division.queries):
        items = [g for g in searched(query) if division.own[place] < 0 or g != query]
        items.sort(key=lambda item: distance(query, item))
        hits = [bool((images.labels[query] & images.labels[item]).any()) for item in items[:k]]
        found.append(np.mean([np.mean(hits[: n + 1]) for n, hit in enumerate(hits) if hit] or [0.0]))
    return np.mean(found)


def untied(split, distance, searched):
    """Keep the queries from which no two items are equally far."""
    apart = [[distance(query, item) for item in searched(query) if item != query] for query in split.queries]
    kept = [len(set(each)) == len(each) for each in apart]
    return Division(split.train, split.gallery, split.queries[kept], split.own[kept])


def bits_apart(one, other):
    return int(np.unpackbits(one ^ other).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_merged_answers_of_nodes_with_the_same_encoder_are_the_union(seed, same):
    rng, images, codes, holder = case(seed)
    alike = np.repeat(codes[:1], 3, axis=0)
    split = division(rng, 40, same)
    assert merged(images, split, alike, holder, 5) == pytest.approx(union(images, split, codes[0], 5).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_each_node_hashes_the_query_and_its_own_gallery_by_its_own_encoder(seed, same):
    rng, images, codes, holder = case(seed, images=16, bits=256)
    split = division(rng, 16, same)

    def distance(query, item):
        return bits_apart(codes[holder[item], query], codes[holder[item], item])

    split = untied(split, distance, lambda _: split.gallery)
    assume(len(split.queries))
    expected = naive(images, split, distance, lambda _: split.gallery, 5)
    assert merged(images, split, codes, holder, 5) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_own_galleries_are_searched_by_their_own_queries_and_encoder_alone(seed, same):
    rng, images, codes, holder = case(seed, bits=256)
    split = division(rng, 40, same)

    def distance(query, item):
        return bits_apart(codes[holder[query], query], codes[holder[query], item])

    def searched(query):
        return [item for item in split.gallery if holder[item] == holder[query]]

    split = untied(split, distance, searched)
    assume(len(split.queries))
    assert own_galleries(images, split, codes, holder, 5) == pytest.approx(naive(images, split, distance, searched, 5))


def test_images_that_nobody_learns_from_are_where_their_class_is():
    names = np.repeat(["a", "b", "c"], 40)
    images = SimpleNamespace(classes=("a", "b", "c"), entries=[SimpleNamespace(labels=(name,)) for name in names])
    parts = [np.arange(0, 20), np.arange(40, 60)]  # half of a at node 0, half of b at node 1, nobody learns c
    held = owners(images, parts, 1)
    assert (held[:40] == 0).all()
    assert (held[40:80] == 1).all()
    assert set(held[80:]) == {0, 1}
    assert (held == owners(images, parts, 1)).all()
