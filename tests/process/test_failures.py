"""What members of a federation rely on when others fail, lie about the past, or are put out. Real processes."""

import asyncio
import json
import secrets
import signal
import subprocess
from contextlib import suppress
from datetime import timedelta

import grpc
import pytest
from federation import RSFED, wait_until, write_images

from rsfed.clock import Deadline, utc_now
from rsfed.errors import RsfedError
from rsfed.home import Home
from rsfed.transport.channel import call, open_channel
from rsfed.trust.envelope import sign_envelope
from rsfed.trust.identity import load_federation, load_identity
from rsfed.v1 import query_pb2
from rsfed.v1.envelope_pb2 import QueryEnvelope
from rsfed.v1.federation_pb2 import FederationServiceGetTrustBundleRequest as Request
from rsfed.v1.federation_pb2_grpc import FederationServiceStub
from rsfed.v1.outcome_pb2 import NODE_STATUS_COMPLETE
from rsfed.v1.query_pb2_grpc import QueryServiceStub

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

NODES = ("alps", "coast", "north")


def statuses(answer):
    return {o["node"]: o["status"] for o in answer["queries"][0]["outcomes"]}


def hits_by_node(federation, answer, nodes):
    """Everything about each hit of these nodes; a handle, fresh in every query, by the file that it means."""
    hits = [hit for hit in answer["queries"][0]["hits"] if hit["node"] in nodes]
    found = {}
    for node in nodes:
        own = [hit for hit in hits if hit["node"] == node]
        meant = federation.resolve(node, [hit["handle"] for hit in own])
        found[node] = [
            {**hit, "rank": None, "handle": None, "file": file["path"]} for hit, file in zip(own, meant, strict=True)
        ]
    return found


def all_complete(federation, image):
    """Whether every node answers a query in full."""
    answer = federation.query(image, check=False)
    return answer["exit"] == 0 and statuses(answer) == dict.fromkeys(NODES, "COMPLETE")


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log_events(federation, name):
    """The log lines of a server, as far as they are JSON."""
    lines = federation.servers[name].log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def start_query(federation, image):
    command = [*RSFED, "query", str(image), "--k", "72", "--home", str(federation.home("ada")), "--output", "json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=federation.environment
    )


def answered(federation, name):
    """How many queries a node has acknowledged."""
    return sum(event["event"] == "query.answered" for event in log_events(federation, name))


def test_a_node_killed_during_a_query_spoils_nobody_elses_hits(federation, image):
    whole = federation.query(image, "--k", "72")
    assert set(statuses(whole).values()) == {"COMPLETE"}
    before = answered(federation, "alps")
    coast = federation.servers["coast"]
    coast.signal(signal.SIGSTOP)  # coast gets the query and cannot answer, so the kill falls into it
    try:
        running = start_query(federation, image)
        wait_until(lambda: answered(federation, "alps") > before, what="the query reached the nodes")
    finally:
        coast.kill()
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    broken = json.loads(output)
    assert statuses(broken) == {"alps": "COMPLETE", "coast": "UNREACHABLE", "north": "COMPLETE"}
    others = ("alps", "north")
    assert hits_by_node(federation, broken, others) == hits_by_node(federation, whole, others)
    assert federation.query(image, "--require-all", check=False)["exit"] == 3
    federation.serve("node", "coast")
    wait_until(  # the coordinator may still think of the one that was killed
        lambda: set(statuses(federation.query(image)).values()) == {"COMPLETE"}, what="coast answers again"
    )


def test_a_node_that_hangs_times_out_and_the_others_answer(federation, image):
    coast = federation.servers["coast"]
    coast.signal(signal.SIGSTOP)
    try:
        answer = federation.query(image)
    finally:
        coast.signal(signal.SIGCONT)
    assert statuses(answer) == {"alps": "COMPLETE", "coast": "TIMED_OUT", "north": "COMPLETE"}
    assert answer["queries"][0]["hits"]


def test_a_filter_reaches_every_archive_and_one_that_keeps_a_field_refuses_alone(federation, image):
    coast, config = federation.servers["coast"], federation.home("coast") / "node.toml"
    before = config.read_text()
    config.write_text(before.replace("[policy]\n", '[policy]\nunfilterable = ["label", "modality"]\n'))
    assert coast.stop() == 0
    federation.serve("node", "coast")
    try:
        wait_until(lambda: all_complete(federation, image), what="coast answers again")
        answer = federation.query(image, "--k", "72", "--label", "stripes-b", "--modality", "rgb")
        undated = federation.query(image, "--k", "72", "--after", "2020-01-01")
        unknown = federation.query(image, "--label", "stripes-z", check=False)
    finally:
        config.write_text(before)
        federation.servers["coast"].stop()
        federation.serve("node", "coast")
        wait_until(lambda: all_complete(federation, image), what="coast answers as before")
    by_node = {o["node"]: o for o in answer["queries"][0]["outcomes"]}
    assert (by_node["coast"]["status"], by_node["coast"]["reason"]) == ("REFUSED", "UNFILTERABLE_MODALITY")
    assert by_node["coast"]["unfilterable"] == ["modality", "label"]
    assert "search again without --modality, --label" in answer["stderr"]
    assert by_node["alps"]["filtered"] == ["modality", "label"]
    hits = answer["queries"][0]["hits"]
    for node in ("alps", "north"):
        meant = federation.resolve(node, [hit["handle"] for hit in hits if hit["node"] == node])
        assert len(meant) == 8
        assert all("stripes-b" in file["path"] for file in meant)
    assert [(o["status"], o["unknown"]) for o in undated["queries"][0]["outcomes"]] == [("COMPLETE", 24)] * 3
    assert not undated["queries"][0]["hits"]
    assert unknown["exit"] == 2
    assert "its classes: stripes-a, stripes-b, stripes-c" in unknown["stderr"]


KILLS = 3


class Asker:
    """An analyst who asks all the time, from several sides at once, and knows what the node "alps" answered."""

    def __init__(self, identity, stub, digest):
        self.identity, self.stub, self.digest = identity, stub, digest
        self.answered, self.news = set(), asyncio.Event()

    async def more(self, count):
        """Wait for so many further answers."""
        wanted = len(self.answered) + count
        while len(self.answered) < wanted:
            self.news.clear()
            await self.news.wait()

    async def ask_on(self):
        while True:
            with suppress(RsfedError):
                query = self.query()
                request = query_pb2.QueryServiceSearchRequest(query=query)
                answer = await call(self.stub.Search, request, Deadline.after(10), what="the coordinator")
                if any(o.node == "alps" and o.status == NODE_STATUS_COMPLETE for o in answer.outcomes):
                    self.answered.add(answer.query_id.hex())
                    self.news.set()

    def query(self):
        envelope = QueryEnvelope(
            query_id=secrets.token_bytes(16), requester=self.identity.member.uri, federation="testers",
            release_digest=self.digest, encoder="rgb", codes=bytes(4), k=5,
        )  # fmt: skip
        envelope.created.FromDatetime(utc_now())
        envelope.expires.FromDatetime(utc_now() + timedelta(minutes=5))
        return sign_envelope(envelope, self.identity)


async def test_a_node_that_is_killed_while_it_answers_keeps_the_note_of_every_answer(federation):
    """Its log is whole each time, and the coordinator never finds it in contradiction with a head that it signed."""
    identity = load_identity(federation.home("ada") / "identity")
    address = load_federation(federation.home("ada") / "identity")
    async with open_channel(address.address, identity, address.coordinator) as channel:
        stub = QueryServiceStub(channel)
        listed = await call(stub.ListNodes, query_pb2.QueryServiceListNodesRequest(), Deadline.after(10), what="it")
        asker = Asker(identity, stub, listed.release_digest)
        verify = ("node", "audit", "verify", "--home", federation.home("alps"))
        asking = [asyncio.create_task(asker.ask_on()) for _ in range(4)]
        for kill in range(KILLS):
            await asker.more(20 + 7 * kill)
            federation.servers["alps"].kill()
            whole = await asyncio.to_thread(federation.rsfed, *verify)
            assert "the log is whole" in whole.stdout
            federation.serve("node", "alps")
        await asker.more(1)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    shown = federation.rsfed(
        "node", "audit", "show", "--last", "100000", "--output", "json", "--home", federation.home("alps")
    )
    noted = {e["data"].get("query_id") for e in json.loads(shown.stdout)["audit"] if e["kind"] == "query.answered"}
    assert asker.answered <= noted

    def judged():
        done = federation.rsfed("coordinator", "members", "--home", federation.home("coordinator"), "--output", "json")
        alps = next(m for m in json.loads(done.stdout)["members"] if m["name"] == "alps")
        return alps if (alps["audit_entries"] or 0) > len(asker.answered) else None

    alps = wait_until(judged, what="the coordinator has checked the newest heads")
    assert (alps["audit"], alps["audit_restarts"]) == ("proven", 0)


def test_a_token_works_once(federation):
    token = federation.invite("guest", "analyst")
    for home in ("guest", "thief"):
        federation.rsfed("analyst", "init", "--home", federation.home(home))
    federation.rsfed("analyst", "join", token, "--home", federation.home("guest"))
    replayed = federation.rsfed("analyst", "join", token, "--home", federation.home("thief"), check=False)
    assert replayed.returncode == 4
    assert "TOKEN_USED" in replayed.stderr


def test_a_token_for_a_node_makes_no_analyst(federation):
    token = federation.invite("west", "node")
    federation.rsfed("analyst", "init", "--home", federation.home("upstart"))
    refused = federation.rsfed("analyst", "join", token, "--home", federation.home("upstart"), check=False)
    assert refused.returncode == 4


async def test_a_revoked_node_is_refused_on_the_channel_it_holds_open(federation):
    write_images(federation.folder / "images-doomed", {"stripes-a": 2}, seed=7)
    federation.add_node("doomed", federation.folder / "images-doomed", serve=False)
    identity = load_identity(Home(federation.home("doomed")).identity)
    address = json.loads((federation.home("doomed") / "identity" / "federation.json").read_text())["address"]
    async with open_channel(address, identity, identity.bundle.coordinator) as channel:
        stub = FederationServiceStub(channel)
        await stub.GetTrustBundle(Request(), timeout=10)
        federation.rsfed("coordinator", "revoke", "doomed", "--role", "node", "--home", federation.home("coordinator"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetTrustBundle(Request(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "revoked" in refused.value.details()


def serve_releases(federation, files):
    """Stop the coordinator, put files into its folder of releases, start it again, and return how it had ended."""
    ended = federation.servers["coordinator"].stop()
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    federation.serve("coordinator", "coordinator")
    return ended


def test_a_coordinator_that_serves_an_older_release_rolls_nobody_back(federation, image):
    """The coordinator's folder is put back to release 1 after release 2 was out, as a thief of a backup would."""
    home, releases = federation.home("coordinator"), federation.home("coordinator") / "releases"
    older = files_below(releases)
    federation.rsfed("coordinator", "train", "--rounds", "1", "--home", home, "--output", "json", timeout=300)
    federation.wait_serving(*NODES, release=2)
    before = federation.query(image)
    assert before["release"]["version"] == 2
    newer = files_below(releases)
    try:
        assert serve_releases(federation, older) == 0
        wait_until(
            lambda: any(e.get("reason") == "RELEASE_ROLLBACK" for e in log_events(federation, "alps")),
            what="alps refuses the older release",
        )
        assert {federation.nodes()[name]["release_version"] for name in NODES} == {2}
        refused = federation.query(image, check=False)
        assert refused["exit"] == 4
        assert "RELEASE_ROLLBACK" in refused["stderr"]
    finally:  # the federation is shared
        serve_releases(federation, newer)
        wait_until(lambda: all_complete(federation, image), what="everybody is back at release 2")
    federation.wait_serving(*NODES, release=2)
