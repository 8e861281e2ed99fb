"""`rsfed node policy simulate`: what was asked of a node, replayed against other levels on its own archive."""

import json
from contextlib import closing, suppress

import numpy as np
import pytest
from members import World
from serving import Asker, add_patches, make_auditor, make_home, make_searcher, publish, serve_codes

from node.catalogue import Catalogue
from node.state import open_state
from rsfed.cli import run
from rsfed.clock import Deadline
from rsfed.errors import ExitCode, RsfedError
from rsfed.home import transaction
from rsfed.privacy.policy import Policies
from rsfed.trust.manifest import CodebookEntry
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.envelope_pb2 import QueryFilter

CODEBOOK = tuple(CodebookEntry(class_id=n, code=code * 4) for n, code in enumerate(("00", "ff", "f0")))
PATCHES = 180


class Node:
    """A node whose patches have codes near the codebook, 20 acquisitions unless told otherwise, and its analysts."""

    def __init__(self, folder, *, acquisitions=20, codebook=CODEBOOK, hashed=True):
        self.world, self.home = World(), make_home(folder / "node")
        self.release = publish(self.home, self.world, codebook=codebook, codebook_reach=6)
        rng = np.random.default_rng(0)
        self.ids = add_patches(self.home, PATCHES)
        self.cells = rng.integers(0, 3, PATCHES)
        codes = np.array([list(bytes.fromhex(CODEBOOK[cell].code)) for cell in self.cells], np.uint8)
        for byte in (1, 2):
            codes[:, byte] ^= 1 << rng.integers(0, 8, PATCHES).astype(np.uint8)
        self.codes = codes
        with Catalogue(self.home) as catalogue:
            rows = [(f"flight {number % acquisitions}", item) for number, item in enumerate(self.ids)]
            with transaction(catalogue.connection):
                catalogue.connection.executemany("UPDATE item SET acquisition = ? WHERE id = ?", rows)
            if hashed:
                catalogue.put_codes(self.release.digest, "rgb", self.ids, codes)

    def answer(self, level, *, who="ada", count=1, filters=None):
        """Have queries answered or refused at a level and noted."""
        served = serve_codes(self.home, self.release, self.ids, self.codes)
        searcher = make_searcher(self.home, self.world, served, policies=Policies.of(level, {}))
        auditor, asker = make_auditor(self.home, self.world), Asker(self.world, who)
        for _ in range(count):
            signed = asker.ask(self.release, self.codes[:1], **({"filter": filters} if filters else {}))
            with suppress(RsfedError):
                auditor.searched(searcher.search, pb.ArchiveServiceSearchRequest(query=signed), Deadline.after(20))

    def simulate(self, capsys, *options):
        capsys.readouterr()
        code = run(["node", "policy", "simulate", "--home", str(self.home.path), "--output", "json", *options])
        assert code == ExitCode.DONE
        return json.loads(capsys.readouterr().out)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def levels(found):
    return {each["level"]: each for each in found["levels"]}


def test_as_many_queries_are_replayed_as_the_log_has_whatever_level_answered_or_refused_them(node, capsys):
    node.answer("partner", count=3)
    node.answer("partner", who="bob", count=2)
    node.answer("guarded", count=4)  # NOT_PUBLISHED
    node.answer("catalogue", count=5)  # NOT_SEARCHED
    node.answer("partner", filters=QueryFilter(after=5, before=1), count=6)  # makes no sense at any level
    found = node.simulate(capsys)
    told = found["audit"]
    assert (told["queries"], told["pages"], told["refused"], told["requesters"]) == (14, 0, 6, 2)
    assert told["first"] <= told["last"]
    assert found["replayed"]["queries"] == 14


def test_where_nobody_asked_yet_as_many_as_are_usual_ask(node, capsys):
    found = node.simulate(capsys, "--seed", "3")
    assert found["audit"]["queries"] == 0
    assert found["audit"]["first"] is None
    assert found["replayed"] == {
        "queries": 2000,
        "patches": found["replayed"]["patches"],
        "popularity": "zipf",
        "seed": 3,
    }


def test_each_level_tells_what_it_withholds_and_whether_the_archive_is_large_enough(node, capsys):
    found = node.simulate(capsys, "--queries", "200")
    assert found["level"] == "guarded"
    assert found["archive"] == {"patches": PATCHES, "acquisitions": 20, "classes": "codebook"}
    at = levels(found)
    assert [at[name]["starts"] for name in ("partner", "guarded", "catalogue", "sealed", "counts")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (at["partner"]["withheld"], at["partner"]["quality"], at["partner"]["overlap"]) == (0, 1, 1)
    assert (at["guarded"]["withheld"], at["guarded"]["told"], at["guarded"]["quality"]) == (0, 1, 1)
    assert at["guarded"]["overlap"] < 1
    assert (at["catalogue"]["needs"], at["catalogue"]["withheld"], at["catalogue"]["quality"]) == (30, None, None)


def test_levels_that_publish_answer_no_query_and_are_searched_privately(tmp_path, capsys):
    at = levels(Node(tmp_path, acquisitions=60).simulate(capsys, "--queries", "100"))
    assert (at["catalogue"]["withheld"], at["sealed"]["withheld"], at["counts"]["withheld"]) == (1, 1, 1)
    assert at["catalogue"]["quality"] > 0.9
    assert at["catalogue"]["hits"] == 20
    assert (at["counts"]["quality"], at["counts"]["hits"], at["counts"]["told"]) == (0, 0, 0)


def test_a_class_that_few_acquisitions_share_is_withheld_at_guarded_alone(node, capsys):
    few = [item for item, cell in zip(node.ids, node.cells.tolist(), strict=True) if cell == 2]
    with Catalogue(node.home) as catalogue, transaction(catalogue.connection):
        catalogue.connection.executemany("UPDATE item SET acquisition = 'one' WHERE id = ?", [(item,) for item in few])
    at = levels(node.simulate(capsys, "--level", "partner", "--level", "guarded", "--queries", "300"))
    assert at.keys() == {"partner", "guarded"}
    assert at["guarded"]["withheld"] > 0.1
    assert at["guarded"]["told"] == pytest.approx(1 - len(few) / PATCHES, abs=1e-4)
    assert at["partner"]["withheld"] == 0


def test_labels_are_the_classes_where_most_patches_have_one(node, capsys):
    with closing(open_state(node.home)) as connection, transaction(connection):
        for name, number in (("even", 1), ("odd", 2)):
            connection.execute("INSERT INTO label (name) VALUES (?)", (name,))
            connection.execute("INSERT INTO label_class SELECT id, ? FROM label WHERE name = ?", (number, name))
        for place, item in enumerate(node.ids):
            connection.execute(
                "INSERT INTO source_label SELECT item.source, label.id FROM item, label WHERE item.id = ? AND name = ?",
                (item, "odd" if place % 2 else "even"),
            )
    found = node.simulate(capsys, "--queries", "100")
    assert found["archive"]["classes"] == "labels"
    assert levels(found)["partner"]["ndcg"] < 0.8  # codes say nothing of such classes
    assert levels(found)["partner"]["quality"] == 1


def test_the_same_seed_gives_the_same_figures_and_nothing_is_written(node, capsys):
    files = {path: path.read_bytes() for path in node.home.path.rglob("*") if path.is_file()}
    one, again, other = (node.simulate(capsys, "--queries", "50", "--seed", seed) for seed in ("1", "1", "2"))
    assert one == again
    assert one["replayed"]["patches"] != other["replayed"]["patches"] or one["levels"] != other["levels"]
    with closing(open_state(node.home)) as connection:
        assert connection.execute("SELECT count(*) FROM publication").fetchone() == (0,)
    kept = {path: path.read_bytes() for path in files if "state" not in path.name}
    assert kept == {path: files[path] for path in kept}


def test_the_table_fits_and_says_what_is_drawn_and_which_level_is_that_of_now(node, capsys):
    node.answer("partner", count=3)
    capsys.readouterr()
    assert run(["node", "policy", "simulate", "--home", str(node.home.path)]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "3 queries for 20 items" in out
    assert "Zipf's law; seed 0" in out
    assert "guarded (now)" in out
    assert "needs 30 acquisitions" in out


@pytest.mark.parametrize(
    ("how", "said"), [({"codebook": ()}, "NO_CODEBOOK"), ({"hashed": False}, "no patch has a code")]
)
def test_without_codebook_or_codes_it_says_what_to_do(tmp_path, capsys, how, said):
    node = Node(tmp_path, **how)
    assert run(["node", "policy", "simulate", "--home", str(node.home.path)]) == ExitCode.FAILURE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
