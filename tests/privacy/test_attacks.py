"""Each attack of `make bench-privacy` succeeds against a node without protection, on a made-up archive."""

import json
from dataclasses import replace

import numpy as np
import pytest
from attacks import beside, catalogues, codes_attacked, lying, places, refining, sets, suite, transcripts
from attacks.archive import made
from attacks.guessing import UNTOLD, Told, Truth
from attacks.judging import Catalogues, together
from attacks.lines import Line

from rsfed.codes import hamming, pack, unpack
from rsfed.privacy.cells import Cells

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


def test_refine_that_is_spent_links_nothing_and_what_handles_that_stay_would(archive, tmp_path):
    for line in told(refining.refine_spent(tmp_path, [archive], 20, 20)):
        spent = line.more["spent"]["made"]
        assert (spent["least"], spent["most"], spent["linked"]) == (20, 20, 0)


def test_place_and_month_single_out_a_patch_without_protection_alone(archive, tmp_path):
    for line in told(places.by_place(tmp_path, [archive], 3)):
        assert set(line.more["singled_out"].values()) == {0.0}


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


def test_gains_are_over_who_knows_the_class_and_what_is_usual_in_it(archive):
    truth, every = Truth.of(archive, "label"), np.arange(len(archive))
    own = [each.tobytes() for each in archive.queries]
    codes = truth.learned(Told([each.tobytes() for each in archive.codes], own, archive.bits))
    cells = hamming(archive.codes, archive.cells).argmin(axis=1)
    public, own_cells = unpack(archive.cells).astype(bool), hamming(archive.queries, archive.cells).argmin(axis=1)
    believed = truth.believed(np.eye(len(public))[cells], own_cells.tolist(), public)
    assert max(truth.score(guess, every)[0] for guess in truth.untold()) > 5.0
    assert truth.gain(truth.untold(), every).tolist() == [0.0, 0.0]
    assert (truth.gain([codes], every) > [20.0, 5.0]).all()
    assert truth.gain([believed], every)[1] > 1.0, "some patches are not of the cell of their class"


def test_who_is_told_nothing_knows_nothing_of_the_archive_but_classes(archive):
    other = replace(archive, codes=np.random.default_rng(1).integers(0, 256, archive.codes.shape, dtype=np.uint8))
    for one, two in zip(Truth.of(archive, "label").untold(), Truth.of(other, "label").untold(), strict=True):
        assert (one.codes == two.codes).all()
        assert (one.off == two.off).all()


def test_what_was_told_in_any_epoch_counts():
    hints = np.eye(3, 4, dtype=bool)
    first = Told([(2, -1), UNTOLD, UNTOLD], [(2, -1)], hints)
    second = Told([UNTOLD, (-1, 2), UNTOLD], [(2, 2)], ~hints)
    told = together([first, second])
    assert told.archive == [(2, -1), (-1, 2), UNTOLD]
    assert told.own == [(2, 2)]
    assert told.hints.tolist() == [hints[0].tolist(), (~hints[1]).tolist(), hints[2].tolist()]


def test_catalogues_count_together_and_by_their_differences(archive):
    """The last one alone would point at another code: its sizes have noise."""
    middles = np.tile(archive.cells[:1], (3, 1))
    middles[:, 3] ^= np.array([0, 1, 2], np.uint8)
    published = [(middles[:2], np.array([100, 10])), (middles, np.array([10, 30, 15]))]
    arrived = np.arange(len(archive)) % 2
    read = Catalogues(published, Cells.of(archive.codebook, archive.reach), archive.cell_classes, arrived)
    patches = Truth.of(archive, "label").archive
    largest, grown, new = (pack(each) for each in read.hints(patches))
    early, late = (np.flatnonzero((patches.known == archive.cell_classes[0]) & (arrived == each)) for each in (0, 1))
    assert {each.tobytes() for each in largest[[*early, *late]]} == {middles[0].tobytes()}
    assert {each.tobytes() for each in grown[late]} == {middles[1].tobytes()}
    assert {each.tobytes() for each in new[late]} == {middles[2].tobytes()}
