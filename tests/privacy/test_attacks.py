"""Each attack of `make bench-privacy` succeeds against a node without protection, on a made-up archive."""

import json

import numpy as np
import pytest
from attacks import beside, catalogues, codes_attacked, lying, refining, sets, suite, transcripts
from attacks.archive import made
from attacks.guessing import Truth
from attacks.lines import Line

KEYS = ["attack", "control", "level", "measured", "limit", "held"]


@pytest.fixture(scope="module")
def archive():
    return made(150, 3)


def told(lines):
    """The lines of an attack, each of which has won against its control and tells what it should."""
    found = list(lines)
    for line in found:
        assert list(json.loads(line.to_json()))[: len(KEYS)] == KEYS
        assert line.won, line
    return found


def test_attacks_by_asking_recover_codes_without_protection_and_nothing_beyond_the_cell_with_it(archive, tmp_path):
    size = codes_attacked.Size(4, 2, held=50, queries=1, lonely=1, random=32, repeats=3, epochs=2)
    lines = told(codes_attacked.by_asking(tmp_path, [archive], size, ("guarded",)))
    exact = {line.attack: line for line in lines if line.attack.endswith(".exact")}
    assert set(codes_attacked.queries.SINGLE) < {name.removesuffix(".exact") for name in exact}
    assert next(line for line in lines if line.attack == "repeated query.differ").held
    assert exact["planted lonely item.exact"].held


def test_what_is_published_is_told_apart_and_inverted_without_floors(archive, tmp_path):
    varied = made(600, 3, noise=0.05)
    told(catalogues.differencing(tmp_path, varied, trials=4, control_trials=2, per=6, base=4, levels=("counts",)))
    assert all(line.held for line in told(catalogues.floors(tmp_path, [archive], ("catalogue",))))
    assert all(line.held for line in told(catalogues.inversion(tmp_path, [archive], ("catalogue",))))
    told(refining.refine_linked(tmp_path, [archive]))
    told(beside.rare_items(tmp_path, [archive], 8, ("counts",)))
    told(beside.public_scenes(tmp_path, [archive], ("guarded",)))
    told(beside.class_mix(tmp_path, [archive], ("counts",)))


def test_filters_single_out_one_acquisition_without_protection_and_five_with_it(archive, tmp_path):
    (line,) = told(sets.filters(tmp_path, [archive], 12))
    assert line.held
    assert line.more == {"answers_not_as_recomputed": 0}


def test_private_queries_send_the_same_and_others_do_not(archive, tmp_path):
    assert all(line.held for line in told(transcripts.private_queries(tmp_path, archive, ("catalogue",))))


def test_a_liar_takes_all_of_a_ranking_until_one_picture_gives_it_away_and_then_its_share():
    assert all(line.held for line in told(lying.lying_node()))


def test_what_is_not_built_is_not_told_as_held():
    assert Line("some attack", "guarded", 3.0, True, 0.0, 1.0, built=False).held is False


def test_an_attack_that_fails_against_its_control_holds_nothing_and_fails_the_bench(
    archive, tmp_path, monkeypatch, capsys
):
    lost = Line("bit flips.exact", "guarded", 3.0, False, 0.0, 1.0)
    monkeypatch.setattr(suite, "ATTACKS", (lambda *_: iter([lost]),))
    monkeypatch.setattr(suite.speed, "guard_and_audit", lambda _: {})
    assert suite.run(tmp_path, [archive]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (said["held"], said["control_won"]) == (False, False)


def test_gains_are_over_who_knows_the_class_and_its_commonest_code(archive):
    truth = Truth.of(archive.bits, archive.labels)
    every = np.arange(len(archive))
    nothing, code = truth.learned([()] * len(archive)), truth.learned([each.tobytes() for each in archive.codes])
    assert truth.score(nothing, every)[0] > 5.0
    assert truth.score(code, every)[0] > truth.score(nothing, every)[0] + 20.0
    assert truth.score(code, every)[1] > truth.score(nothing, every)[1]
