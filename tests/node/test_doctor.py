"""What `rsfed node doctor` finds, and what it says to do."""

from __future__ import annotations

import shutil
from collections import namedtuple
from contextlib import closing
from datetime import timedelta

import pytest
from borders import BOXES, borders
from members import World
from node_archives import configure, give_release, make_node, run
from serving import make_auditor

from node.accounting import Accountant
from node.catalogue import Catalogue
from node.cli.doctor import _announcement
from node.doctor import Coordinator, Verdict, coordinator_findings, local_findings
from node.sources import Read, Rules, Seen, acknowledge
from node.state import open_state
from rsfed import home as home_module
from rsfed.config import NodeConfig, load_config
from rsfed.errors import NotAdmitted, Unreachable
from rsfed.home import transaction
from rsfed.raster.inspect import SourceInfo, SourceWindow
from rsfed.raster.item import Window
from rsfed.trust.audit_log import read_entries
from rsfed.trust.certificates import issue_leaf, make_csr
from rsfed.trust.identity import create_keys, save_bundle, save_certificate
from rsfed.trust.names import Role
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1.control_pb2 import ControlServiceStatusResponse


@pytest.fixture
def world():
    return World()


@pytest.fixture
def node(tmp_path, world):
    home, _ = make_node(tmp_path)
    ca, keys = world.cas[0], create_keys(home.identity)
    leaf = issue_leaf(ca.key, ca.cert, make_csr(keys.key), world.member(Role.NODE, "rome"), now=world.clock())
    save_bundle(home.identity, world.signed_bundle(), refreshed=world.clock())
    save_certificate(home.identity, (leaf, ca.cert))
    give_release(home, "Forest", world=world)
    configure(home, '# level = "partner"', 'level = "partner"')
    return home


def look(home, world, serve_connected=True):
    config = load_config(NodeConfig, home.path)
    return {f.check: f for f in local_findings(home, config, serve_connected=serve_connected, now=world.clock)}


def only(findings, verdict):
    """The one finding that is not ok, whose verdict must be this; it must say what to do."""
    (finding,) = [f for f in findings.values() if f.verdict is not Verdict.OK]
    assert finding.verdict is verdict
    assert finding.remedy
    return finding


def answer(world, *, ahead=0.0, dialled_back=True):
    """What the coordinator answers to a node whose clock is `ahead` seconds ahead."""
    asked = world.clock() + timedelta(seconds=ahead)
    return lambda: Coordinator(world.clock(), (asked, asked + timedelta(seconds=0.02)), dialled_back)


def test_a_healthy_node_has_no_finding(node, world):
    findings = [*look(node, world).values(), *coordinator_findings(answer(world))]
    assert {f.verdict for f in findings} == {Verdict.OK}
    assert not any(f.remedy for f in findings)


def test_days_left_and_renewal_are_said(node, world):
    assert "30 days" in look(node, world)["certificate"].found
    world.clock.move(days=21)
    assert look(node, world)["certificate"].verdict is Verdict.WARN
    world.clock.move(days=10)
    finding = look(node, world)["certificate"]
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "CERT_EXPIRED")


def test_a_node_that_has_not_joined_is_told_how(tmp_path, world):
    home, _ = make_node(tmp_path)
    finding = look(home, world)["certificate"]
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "NOT_JOINED")
    assert "rsfed node join" in finding.remedy

    def ask():
        raise NotAdmitted("not joined", reason="NOT_JOINED")

    assert coordinator_findings(ask) == []


def test_a_revoked_node_is_told_so(node, world):
    world.revoked_names.append(world.member(Role.NODE, "rome").uri)
    world.version += 1
    save_bundle(node.identity, world.signed_bundle(), refreshed=world.clock())
    finding = only(look(node, world), Verdict.FAIL)
    assert finding.reason == "REVOKED"
    assert finding.remedy == "ask for a new invitation, then `rsfed node join TOKEN`"


def test_a_trust_bundle_without_news_for_a_day_is_a_failure(node, world):
    world.clock.move(hours=25)
    assert only(look(node, world), Verdict.FAIL).reason == "REVOCATION_STALE"


def test_an_expired_release_is_a_failure(node, world):
    world.clock.move(days=91)
    finding = look(node, world)["release"]
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "RELEASE_EXPIRED")


def test_no_release_yet_is_a_warning(node, world):
    shutil.rmtree(node.releases)
    assert only(look(node, world), Verdict.WARN).check == "release"


def test_a_state_folder_on_a_network_file_system_is_a_failure(node, world, monkeypatch):
    monkeypatch.setattr(home_module, "file_system", lambda path: "nfs4")
    finding = only(look(node, world), Verdict.FAIL)
    assert finding.check == "state folder"
    assert "nfs4" in finding.found


@pytest.mark.parametrize(("free", "verdict"), [(1 << 30, Verdict.WARN), (100 << 20, Verdict.FAIL)])
def test_little_disk_is_said_before_it_is_none(node, world, monkeypatch, free, verdict):
    usage = namedtuple("Usage", "total used free")(1 << 40, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert only(look(node, world), verdict).check == "disk"


def test_an_archive_that_is_not_mounted_is_a_failure(node, world, tmp_path):
    (tmp_path / "images").rmdir()
    assert only(look(node, world), Verdict.FAIL).check == "archive"


def test_an_archive_that_may_not_be_read_is_not_called_unmounted(node, world, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    finding = only(look(node, world), Verdict.FAIL)
    assert finding.check == "archive"
    assert finding.remedy == "let this user read it"


def test_more_threads_than_cores_are_a_warning(node, world):
    configure(node, "threads = 1\n", "threads = 256\n")
    assert only(look(node, world), Verdict.WARN).check == "threads"


def test_a_level_whose_floor_the_archive_cannot_meet_is_a_warning(node, world):
    configure(node, 'level = "partner"', 'level = "guarded"')
    finding = only(look(node, world), Verdict.WARN)
    assert "15 acquisitions" in finding.found
    assert "rsfed node policy explain" in finding.remedy


def test_a_release_without_a_codebook_is_a_warning_at_a_level_that_needs_one(node, world, monkeypatch):
    monkeypatch.setattr(Catalogue, "acquisitions", lambda self: 20)
    configure(node, 'level = "partner"', 'level = "guarded"')
    finding = only(look(node, world), Verdict.WARN)
    assert (finding.check, finding.reason) == ("policy", "NO_CODEBOOK")
    assert "the release has no codebook" in finding.found
    assert "more acquisitions" in finding.remedy


def test_a_database_that_is_gone_is_a_warning_at_a_level_that_charges(node, world):
    configure(node, 'level = "partner"', 'level = "catalogue"')
    auditor = make_auditor(node, world)
    with closing(open_state(node)) as connection:
        release = ReleaseStore(node.releases).current()
        Accountant(node, connection, auditor.note).charge(release, 0.5, now=world.clock())
    assert "spending" not in look(node, world)
    node.database.unlink()
    finding = look(node, world)["state folder"]
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "STATE_MISSING")
    assert "rsfed node restore" in finding.remedy
    run(node, accept_empty=True)
    assert look(node, world)["state folder"].verdict is Verdict.OK
    finding = look(node, world)["spending"]
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "REFINE_STORE"), "as the row of COUNTS_STORE before it"
    assert "new release" in finding.remedy


def test_the_audit_log_is_read_once_whatever_is_held_against_it(node, world, monkeypatch):
    configure(node, 'level = "partner"', 'level = "catalogue"')
    make_auditor(node, world)
    reads = []

    def counted(folder):
        reads.append(folder)
        return read_entries(folder)

    for part in ("closed", "accounting", "budgets"):
        monkeypatch.setattr(f"node.{part}.read_entries", counted)
    assert "spending" not in look(node, world)
    assert reads == [node.audit]


@pytest.mark.parametrize("connected", [None, False])
def test_a_serve_that_is_away_or_alone_is_a_warning(node, world, connected):
    assert only(look(node, world, serve_connected=connected), Verdict.WARN).check == "serve"


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(59, Verdict.OK), (-59, Verdict.OK), (61, Verdict.FAIL), (-61, Verdict.FAIL)]
)
def test_clocks_may_differ_by_a_minute(world, ahead, verdict):
    (clock,) = [f for f in coordinator_findings(answer(world, ahead=ahead)) if f.check == "clock"]
    assert clock.verdict is verdict
    assert clock.reason == ("CLOCK_SKEW" if verdict is Verdict.FAIL else "")
    assert ("ahead" if ahead > 0 else "behind") in clock.found


def test_a_clock_that_the_coordinator_refuses_is_named_as_such():
    def ask():
        raise NotAdmitted("the node's clock is 7200 s ahead of the coordinator's", reason="CLOCK_SKEW")

    (finding,) = coordinator_findings(ask)
    assert (finding.check, finding.verdict, finding.reason) == ("clock", Verdict.FAIL, "CLOCK_SKEW")


def test_a_coordinator_that_cannot_dial_back_is_a_failure_and_one_that_was_not_asked_a_warning(world):
    def way(back):
        return next(f for f in coordinator_findings(answer(world, dialled_back=back)) if f.check == "way back")

    assert way(False).verdict is Verdict.FAIL
    assert "advertise" in way(False).remedy
    assert way(None).verdict is Verdict.WARN


def test_a_coordinator_that_cannot_be_reached_is_a_failure_with_its_reason():
    def ask():
        raise Unreachable("the coordinator cannot be reached")

    (finding,) = coordinator_findings(ask)
    assert (finding.check, finding.verdict, finding.reason) == ("coordinator", Verdict.FAIL, "UNREACHABLE")


def test_who_only_asks_to_be_dialled_says_nothing_about_holdings(node):
    serve = ControlServiceStatusResponse(indexed=7, pending=5, release_version=1, release_digest=b"d" * 32)
    request = _announcement(load_config(NodeConfig, node.path), serve)
    assert request.dial_back
    assert not request.HasField("held")


def test_an_archive_of_another_modality_than_the_federations_is_a_failure(node, world):
    configure(node, 'modality = "rgb"', 'modality = "uint16-4"')
    finding = only(look(node, world), Verdict.FAIL)
    assert finding.check == "release"
    assert "this archive is uint16-4, the federation searches rgb" in finding.found
    assert "archive.modality" in finding.remedy


def test_borders_that_will_not_do_are_found_before_anybody_is_told_a_place(node, world):
    configure(node, '# footprints = "10km"', 'footprints = "country"\ncountries = "borders.geojson"')
    finding = look(node, world)["borders"]
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "CONFIGURATION")
    assert finding.found.startswith("borders.geojson is not there; put it into the home")
    (node.path / "borders.geojson").write_bytes(borders())
    finding = look(node, world)["borders"]
    assert (finding.verdict, finding.found) == (Verdict.OK, f"{len(BOXES)} countries in borders.geojson")


def test_borders_in_which_no_patch_lies_are_a_warning(node, world):
    configure(node, '# footprints = "10km"', 'footprints = "country"\ncountries = "borders.geojson"')
    (node.path / "borders.geojson").write_bytes(borders())
    verdicts = []
    for number, west in enumerate((41.0, 5.0)):  # of borders with latitude first, and as it should be
        with closing(open_state(node)) as connection, transaction(connection):
            window = SourceWindow(Window(0, 0, 8, 8), 0.0, f"{number}", (west, 45.0, west + 0.1, 45.1))
            info = SourceInfo(8, 8, 3, "uint8", (None,) * 3, None, None, None, None, "one", None, None,
                              b"", (window,))  # fmt: skip
            rules = Rules("rgb", 0.1, 0.2, independent_files=False, recipe="")
            acknowledge(connection, Read(Seen(f"{number}", 1, 1, frozenset()), info), rules)
        verdicts.append(look(node, world)["borders"].verdict)
    assert verdicts == [Verdict.WARN, Verdict.OK]


def test_where_no_countries_are_told_borders_are_not_spoken_of(node, world):
    assert "borders" not in look(node, world)
