"""The node's audit log: what goes into it, what never does, what its operator sees, and what others can check."""

import hashlib
import json
import re
from contextlib import closing

import numpy as np
import pytest
from members import World
from serving import Asker, add_patches, join, make_auditor, make_home, make_searcher, publish, serve_codes

from node.auditing import Kind, handle_digest, name_digest
from node.resolve import resolve
from node.state import open_state
from node.training.noted import TaskNotes
from rsfed.cli import run
from rsfed.clock import Deadline
from rsfed.errors import RsfedError
from rsfed.hashing.payload import Payload
from rsfed.trust import audit_log
from rsfed.trust.audit_head import verify_head
from rsfed.trust.audit_log import position_of, read_entries
from rsfed.trust.envelope import query_digest
from rsfed.trust.merkle import extends
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.outcome_pb2 import WITHHELD_REASON_LIMIT

ADA = "spiffe://alps/analyst/ada"
CODE = np.full((1, 4), 0x5A, np.uint8)


class Scene:
    """A node that joined, with five patches of one code and secret names."""

    def __init__(self, folder):
        self.world = World()
        self.home = make_home(folder / "node")
        self.identity = join(self.world, self.home, "berne", "127.0.0.1:1")
        self.release = publish(self.home, self.world)
        ids = add_patches(self.home, 5, labels=("forest",))
        self.searcher = make_searcher(
            self.home, self.world, serve_codes(self.home, self.release, ids, np.repeat(CODE, 5, axis=0))
        )
        self.auditor = make_auditor(self.home, self.world, identity=self.identity)
        self.asker = Asker(self.world)

    def sign(self, **changes):
        return self.asker.ask(self.release, CODE, **changes)

    def search(self, signed=None, **changes):
        request = pb.ArchiveServiceSearchRequest(query=signed or self.sign(**changes))
        return self.auditor.searched(self.searcher.search, request, Deadline.after(20))

    def entries(self):
        """The entries after the first."""
        return [json.loads(entry) for entry in read_entries(self.home.audit)][1:]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def refusal(action, *arguments, **options):
    with pytest.raises(RsfedError) as refused:
        action(*arguments, **options)
    return refused.value.reason


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# what is written


def test_an_answer_is_noted_before_it_leaves_and_its_head_counts_the_note(scene):
    signed = scene.sign(k=5)
    answer = scene.search(signed)
    head = verify_head(answer.audit_head, scene.identity.bundle.cas, now=scene.world.clock())
    assert head.signer == scene.identity.member
    assert head.position == position_of(read_entries(scene.home.audit))[0]
    answer.ClearField("audit_head")
    assert scene.entries() == [
        {
            "at": int(scene.world.clock().timestamp() * 1000),
            "kind": "query.answered",
            "requester": sha256(ADA.encode()),
            "query": sha256(signed.envelope),
            "release": scene.release.digest.hex(),
            "answer": sha256(answer.SerializeToString(deterministic=True)),
        }
    ]


def test_a_refusal_is_noted_with_its_reason_and_what_the_query_claims(scene):
    signed = scene.sign()
    scene.search(signed)
    assert refusal(scene.search, signed) == "REPLAY"
    forged = scene.sign()
    forged.signature = b"nothing"
    assert refusal(scene.search, forged) == "ENVELOPE_SIGNATURE"
    broken = scene.sign()
    broken.envelope = b"\xff\xff"
    assert refusal(scene.search, broken)
    told = [(each["kind"], each.get("reason"), each.get("claims"), each["query"]) for each in scene.entries()[1:]]
    ada = sha256(ADA.encode())
    assert told == [
        ("query.refused", "REPLAY", ada, sha256(signed.envelope)),
        ("query.refused", "ENVELOPE_SIGNATURE", ada, sha256(forged.envelope)),
        ("query.refused", "ENVELOPE_SIGNATURE", None, sha256(broken.envelope)),
    ]


def test_a_bug_is_noted_as_a_refusal_too(scene):
    def broken(request, deadline):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scene.auditor.searched(broken, pb.ArchiveServiceSearchRequest(query=scene.sign()), Deadline.after(20))
    assert [(each["kind"], each["reason"]) for each in scene.entries()] == [("query.refused", "INTERNAL")]


def test_an_answer_that_was_cut_is_noted_as_withheld(scene):
    def cut(request, deadline):
        answer = scene.searcher.search(request, deadline)
        answer.answers[0].withheld = WITHHELD_REASON_LIMIT
        return answer

    scene.auditor.searched(cut, pb.ArchiveServiceSearchRequest(query=scene.sign()), Deadline.after(20))
    assert [(each["kind"], each["reason"]) for each in scene.entries()] == [("query.withheld", "LIMIT")]


def test_pages_of_buckets_are_noted_answered_or_refused(scene):
    signed = scene.sign()
    bucket = scene.search(signed).answers[0].bucket_handles
    page = pb.ArchiveServiceExpandBucketRequest(query=signed, bucket_handle=bucket, limit=2)
    answer = scene.auditor.expanded(scene.searcher.expand, page, Deadline.after(20))
    assert verify_head(answer.audit_head, scene.identity.bundle.cas).position.size == 3
    page.limit = 0
    assert refusal(scene.auditor.expanded, scene.searcher.expand, page, Deadline.after(20)) == "INVALID_MESSAGE"
    assert [each["kind"] for each in scene.entries()] == ["query.answered", "bucket.answered", "bucket.refused"]


def test_nothing_private_is_ever_in_the_log(scene):
    signed = scene.sign(k=5)
    answer = scene.search(signed)
    handles = answer.answers[0].item_handles
    resolve(scene.home, [handles[:16].hex()], operator="olga", now=scene.world.clock())
    refusal(scene.search, signed)
    scene.auditor.call_refused(scene.asker.identity.member, "WRONG_ROLE")
    with closing(open_state(scene.home)) as connection:
        notes = TaskNotes(scene.home, connection, scene.world.clock)
        task = Payload(3, 1, "secret-word-of-the-coordinator")
        notes.begun(task, b"weights")
        notes.ended(task, state="done", sent=7, sent_digest="ab" * 32)
    written = b"".join(path.read_bytes() for path in scene.home.audit.iterdir())
    assert len(scene.entries()) == 6
    private = [b"analyst/ada", b"olga", b"secret-", b"forest", answer.query_id, handles[:16], CODE.tobytes()]
    for word in (*private, *(each.hex().encode() for each in private)):
        assert word not in written


def test_training_is_noted_before_and_after_the_work(scene):
    with closing(open_state(scene.home)) as connection:
        notes = TaskNotes(scene.home, connection, scene.world.clock)
        task = Payload(3, 1, "train")
        notes.begun(task, b"weights")
        notes.ended(task, state="TASK_EXPIRED", sent=7, sent_digest=None)
        notes.refused("TRAINING_PAUSED")
    told = [{key: value for key, value in each.items() if key != "at"} for each in scene.entries()]
    named = {"run": 3, "round": 1, "task": "train"}
    assert told == [
        {"kind": "task.begun", **named, "received_bytes": 7, "digest": sha256(b"weights")},
        {"kind": "task.ended", **named, "state": "TASK_EXPIRED", "sent_bytes": 7},
        {"kind": "task.refused", "reason": "TRAINING_PAUSED"},
    ]


def test_a_flood_of_calls_that_nobody_may_make_does_not_fill_the_disk(scene):
    for _ in range(500):
        scene.auditor.call_refused(scene.asker.identity.member, "WRONG_ROLE")
    scene.auditor.call_refused(None, "NO_CERTIFICATE")
    told = [(each["kind"], each["reason"], each.get("caller")) for each in scene.entries()]
    assert told == [("call.refused", "WRONG_ROLE", sha256(ADA.encode()))] * 60 + [
        ("call.refused", "NO_CERTIFICATE", None)
    ]


def test_nothing_is_answered_that_cannot_be_noted(scene, monkeypatch):
    def full(file):
        raise OSError("no space left on device")

    monkeypatch.setattr(audit_log.os, "fdatasync", full)
    assert refusal(scene.search) == "AUDIT_UNWRITABLE"
    monkeypatch.undo()
    assert refusal(scene.search) == "AUDIT_UNWRITABLE"  # what the disk holds is uncertain until `serve` starts again
    scene.auditor = make_auditor(scene.home, scene.world, identity=scene.identity)
    assert scene.search().answers


# what the coordinator is shown


def test_a_node_proves_that_its_log_only_grew(scene):
    heads = [verify_head(scene.search().audit_head, scene.identity.bundle.cas).position for _ in range(3)]
    request = pb.ArchiveServiceProveAuditRequest(log=bytes.fromhex(heads[0].log), sizes=[h.size for h in heads])
    proofs = scene.auditor.prove(request).proofs
    for old, new, proof in zip(heads, heads[1:], proofs, strict=False):
        hashes = [proof.hashes[i : i + 32] for i in range(0, len(proof.hashes), 32)]
        assert extends(old.size, old.root, new.size, new.root, hashes)


@pytest.mark.parametrize("sizes", [[1, 99], [2, 1], [0, 1], list(range(1, 1100))])
def test_what_the_log_cannot_prove_is_refused(scene, sizes):
    scene.search()
    log = bytes.fromhex(position_of(read_entries(scene.home.audit))[0].log)
    assert refusal(scene.auditor.prove, pb.ArchiveServiceProveAuditRequest(log=log, sizes=sizes)) == "AUDIT_SIZE"
    assert (
        refusal(scene.auditor.prove, pb.ArchiveServiceProveAuditRequest(log=bytes(16), sizes=[1, 2]))
        == "AUDIT_REPLACED"
    )


# a log that will not do


def reopen(scene):
    return make_auditor(scene.home, scene.world, identity=scene.identity)


def test_a_log_that_lost_noted_answers_stops_the_node_until_a_new_one_is_begun(scene, capsys):
    old = (scene.home.audit / "log.jsonl").read_bytes()
    scene.searcher.guard._ledger._audited = scene.auditor._log.durable
    scene.search()
    scene.search()
    (scene.home.audit / "log.jsonl").write_bytes(old)
    assert refusal(reopen, scene) == "AUDIT_OLDER"
    (scene.home.audit / "log.jsonl").unlink()
    assert refusal(reopen, scene) == "AUDIT_MISSING"
    assert run(["node", "audit", "restart", "--home", str(scene.home.path)]) == 0
    assert "a new audit log began" in capsys.readouterr().out
    scene.auditor = reopen(scene)
    scene.search()
    first = json.loads(next(read_entries(scene.home.audit)))
    assert first["previous"]["size"] == 2  # that many were durable when the last query was taken


def test_a_new_log_in_place_of_a_sound_one_names_all_of_it(scene, capsys):
    for _ in range(3):
        scene.search()
    scene.auditor._log.close()
    sound = position_of(read_entries(scene.home.audit))[0]
    command(capsys, scene, "restart")
    first = json.loads(next(read_entries(scene.home.audit)))
    assert first["previous"] == {"log": sound.log, "size": 4, "root": sound.root.hex()}


# what its operator sees


def command(capsys, scene, *arguments, code=0):
    assert run(["node", "audit", *map(str, arguments), "--home", str(scene.home.path)]) == code
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def shown(capsys, scene, *arguments):
    return json.loads(command(capsys, scene, "show", "--output", "json", *arguments))["audit"]


def test_the_operator_sees_names_and_ids_where_the_node_still_has_them(scene, capsys):
    signed = scene.sign(k=5)
    answer = scene.search(signed)
    handle = answer.answers[0].item_handles[:16]
    refusal(scene.search, signed)
    scene.world.clock.move(hours=1)
    resolve(scene.home, [handle.hex()], operator="olga", now=scene.world.clock())
    started, answered, refused, looked_up = shown(capsys, scene)
    assert (started["number"], started["kind"]) == (0, "log.started")
    assert (answered["subject"], answered["data"]["query_id"]) == (ADA, answer.query_id.hex())
    assert (looked_up["kind"], looked_up["subject"]) == ("handle.resolved", "olga")
    assert looked_up["data"]["handle_id"] == handle.hex()
    assert looked_up["at"] == scene.world.clock().isoformat(timespec="milliseconds")
    assert (refused["subject"], refused["data"]["reason"]) == (ADA, "REPLAY")
    with closing(open_state(scene.home)) as connection:
        connection.execute("DELETE FROM query_ledger")
    _, answered, _, looked_up = shown(capsys, scene)
    assert (answered["subject"], "query_id" in answered["data"]) == (sha256(ADA.encode()), False)
    for word in (sha256(ADA.encode())[:8], "olga", "query.answered"):
        assert word in command(capsys, scene, "show")


def test_who_asked_for_an_item_is_named_also_where_the_operator_looked_it_up(scene, capsys):
    handle = scene.search(scene.sign(k=5)).answers[0].item_handles[:16]
    resolve(scene.home, [handle.hex()], operator="olga", now=scene.world.clock())
    scene.auditor.note(Kind.ACCESS_ASKED, requester=name_digest(ADA), handle=handle_digest(handle))
    *_, looked_up, asked = shown(capsys, scene)
    assert [(each["kind"], each["subject"]) for each in (looked_up, asked)] == [
        ("handle.resolved", "olga"),
        ("access.asked", ADA),
    ]
    assert asked["data"]["handle_id"] == handle.hex()


def test_the_table_fits_100_columns_and_its_digests_tell_queries_apart(scene, capsys):
    queries = [scene.sign() for _ in range(40)]
    for signed in queries:
        scene.search(signed)
    refusal(scene.search, queries[0])
    table = command(capsys, scene, "show")
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100
    assert f"{scene.world.clock():%Y-%m-%d %H:%M}  query.answered  analyst ada  " in table
    told = re.findall(r"query=([0-9a-f]+)", table)
    assert len(told) == 41
    wanted = [query_digest(signed) for signed in (*queries, queries[0])]
    assert all(digest.startswith(prefix) for digest, prefix in zip(wanted, told, strict=True))
    assert len(set(told)) == 40


def test_only_the_newest_entries_are_listed_when_so_asked(scene, capsys):
    for _ in range(3):
        scene.search()
    whole = shown(capsys, scene)
    for count in range(1, 6):
        assert shown(capsys, scene, "--last", str(count)) == whole[-count:]


def test_a_node_that_nobody_asked_says_so(tmp_path, capsys):
    home = make_home(tmp_path / "node")
    assert run(["node", "audit", "show", "--home", str(home.path)]) == 0
    assert "nothing was asked" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["show", "verify", "restart"])
def test_without_a_node_the_command_says_what_to_run(tmp_path, capsys, what):
    assert run(["node", "audit", what, "--home", str(tmp_path)]) == 6
    assert "rsfed node init" in capsys.readouterr().err


# what others can check


def export(capsys, scene, file, *arguments):
    assert run(["node", "audit", "export", str(file), *arguments, "--home", str(scene.home.path)]) == 0
    return capsys.readouterr()


def check(capsys, file, *arguments, code=0):
    """As somebody checks who has no home at all."""
    assert run(["node", "audit", "verify", str(file), *map(str, arguments), "--home", "/nowhere"]) == code
    return capsys.readouterr()


@pytest.fixture
def exported(scene, tmp_path, capsys):
    """Two exports, and what a stranger has to know."""
    answer = scene.search()
    told = export(capsys, scene, tmp_path / "older.json")
    ca = ["--ca-fingerprint", told.err.split()[-1]]
    scene.search()
    export(capsys, scene, tmp_path / "newer.json", "--since", "2")
    return tmp_path / "older.json", tmp_path / "newer.json", ca, answer


def test_a_stranger_checks_an_export_offline_and_that_it_continues_an_older_one(exported, capsys):
    older, newer, ca, _ = exported
    told = check(capsys, newer, "--older", older, *ca)
    assert [json.loads(line)["number"] for line in told.out.splitlines()] == [0, 1, 2]
    assert "proven: 3 entries are in the log" in told.err
    assert "spiffe://alps/node/berne" in told.err
    assert "it continues the older export" in told.err
    assert "--ca-fingerprint" in check(capsys, newer, code=2).err


def test_an_export_of_one_query_holds_its_entries_only(scene, exported, tmp_path, capsys):
    answer = exported[3]
    scene.search()
    export(capsys, scene, tmp_path / "one.json", "--query", answer.query_id.hex())
    (line,) = check(capsys, tmp_path / "one.json", *exported[2]).out.splitlines()
    assert json.loads(line)["number"] == 1
    export(capsys, scene, tmp_path / "same.json", "--query", json.loads(line)["query"])
    for unknown in ("ab" * 16, "abc", "no digits", ""):
        command(capsys, scene, "export", tmp_path / "no.json", "--query", unknown, code=2)
    assert not (tmp_path / "no.json").exists()


def test_a_refused_query_is_exported_by_the_first_digits_of_its_digest(scene, exported, tmp_path, capsys):
    signed = scene.sign()
    scene.search(signed)
    refusal(scene.search, signed)
    digest = query_digest(signed)
    told = export(capsys, scene, tmp_path / "one.json", "--query", digest[:16].upper())
    assert f"written to {tmp_path / 'one.json'}\n" in told.err
    lines = [json.loads(line) for line in check(capsys, tmp_path / "one.json", *exported[2]).out.splitlines()]
    assert [(line["kind"], line["query"]) for line in lines] == [("query.answered", digest), ("query.refused", digest)]


def test_digits_with_which_several_queries_begin_name_none(scene, tmp_path, capsys):
    digests = {}
    while True:  # 4 digits: after some hundred queries two begin alike
        signed = scene.sign()
        digest = query_digest(signed)
        scene.auditor.note(Kind.QUERY_REFUSED, query=digest)
        if digest[:4] in digests:
            break
        digests[digest[:4]] = digest
    file = tmp_path / "one.json"
    assert "2 queries of the audit log begin so" in command(
        capsys, scene, "export", file, "--query", digest[:4], code=2
    )
    command(capsys, scene, "export", file, "--query", digest[:12])


def test_an_export_with_anything_changed_proves_nothing(exported, tmp_path, capsys):
    _, newer, ca, _ = exported
    for number, change in enumerate((
        lambda e: e["entries"][1].update(entry=e["entries"][1]["entry"].replace("answered", "refused ")),
        lambda e: e["entries"][1].update(index=2),
        lambda e: e["entries"][1]["proof"].pop(),
        lambda e: e.update(signature="00"),
        lambda e: e.update(head=e["head"][:-2] + "00"),
        lambda e: e.update(format="rsfed-audit-2"),
        lambda e: e.update(certificate_chain=[]),
        lambda e: e.update(note="trust me"),
    )):  # fmt: skip
        parsed = json.loads(newer.read_text())
        change(parsed)
        forged = tmp_path / f"{number}.json"
        forged.write_text(json.dumps(parsed))
        assert "AUDIT_EXPORT" in check(capsys, forged, *ca, code=1).err
    assert "AUDIT_EXPORT" in check(capsys, newer, "--ca-fingerprint", "ab" * 32, code=1).err
    (tmp_path / "no.json").write_bytes(b"\x00")
    assert "AUDIT_EXPORT" in check(capsys, tmp_path / "no.json", *ca, code=1).err


def test_an_export_of_a_rewritten_log_does_not_continue_the_older_one(scene, exported, tmp_path, capsys):
    older, newer, ca, _ = exported
    assert "--since 2" in check(capsys, older, "--older", newer.with_name("older.json"), *ca, code=1).err
    path = scene.home.audit / "log.jsonl"
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    entry = json.loads(second[9:])
    path.write_bytes(first + audit_log._line({**entry, "kind": "query.refused"}) + audit_log._line(entry))
    with closing(open_state(scene.home)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'audited_to'")
    export(capsys, scene, tmp_path / "forged.json", "--since", "2")
    assert "rewritten" in check(capsys, tmp_path / "forged.json", "--older", older, *ca, code=1).err


def test_the_operator_checks_the_own_log_also_against_an_older_export(scene, exported, capsys):
    older = exported[0]
    assert "the log is whole: 3 entries" in command(capsys, scene, "verify", "--older", older)
    path = scene.home.audit / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert "AUDIT_OLDER" in command(capsys, scene, "verify", "--older", older, code=6)
    path.write_bytes(whole.replace(b"query.answered", b"query.anSwered"))
    assert "AUDIT_DAMAGED" in command(capsys, scene, "verify", code=6)
    path.unlink()
    assert "AUDIT_MISSING" in command(capsys, scene, "verify", code=6)
