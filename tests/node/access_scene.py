"""A node with real images that answered a query of ada, and analysts who make calls about what it found."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from datetime import timedelta

import numpy as np
from members import World
from node_archives import configure, make_node, png, run
from serving import Asker, join, make_auditor, make_desk, make_searcher, publish, serve_codes

from node.state import open_state
from rsfed.clock import Deadline
from rsfed.trust.audit_log import read_entries
from rsfed.trust.identity import load_identity, save_bundle
from rsfed.trust.names import Role
from rsfed.trust.sealing import Purpose, open_sealed, seal
from rsfed.v1 import access_pb2 as pb
from rsfed.v1 import archive_pb2


class Caller:
    """An analyst who seals calls for the node."""

    def __init__(self, scene, name, *, identity=None):
        self.scene, self.identity = scene, identity or scene.world.identity(Role.ANALYST, name)
        scene.world.knows(self.identity)

    def call(self, request_id=None, *, call_id=None, made=timedelta(0), life=timedelta(minutes=5), **what):
        """The bytes of a call; `what` is ask, look, withdraw or collect."""
        now = self.scene.world.clock() + made
        call = pb.AccessCall(
            call_id=call_id or secrets.token_bytes(16), request_id=request_id or secrets.token_bytes(16), **what
        )
        call.created.FromDatetime(now)
        call.expires.FromDatetime(now + life)
        self.last = call
        return self.seal(call.SerializeToString())

    def seal(self, content, *, purpose=Purpose.ACCESS_CALL, recipient=None):
        node = self.scene.node
        return seal(
            content,
            purpose,
            sender=self.identity,
            recipient=recipient or node.member,
            key=node.sealing_key.public_key().public_bytes_raw(),
        )

    def asks(self, handle=None, *, query_id=None, want=pb.ACCESS_WANT_QUICKLOOK, reason="flood mapping", **how):
        ask = pb.AccessAsk(
            query_id=query_id or self.scene.query_id, handle=handle or self.scene.handles[0], want=want, reason=reason
        )
        return self.call(ask=ask, **how)

    def looks(self, request_id, **how):
        return self.call(request_id, look=pb.AccessLook(), **how)

    def withdraws(self, request_id, **how):
        return self.call(request_id, withdraw=pb.AccessWithdraw(), **how)

    def collects(self, request_id, **how):
        return self.call(request_id, collect=pb.AccessCollect(), **how)

    def opened(self, sealed, purpose=Purpose.ACCESS_ANSWER, context=None):
        return open_sealed(
            sealed,
            purpose,
            recipient=self.identity.member,
            key=self.identity.sealing_key,
            bundle=self.scene.world.bundle(),
            now=self.scene.world.clock(),
            context=self.last.call_id if context is None else context,
            sender=self.scene.node.member,
        ).content

    def answer(self, sealed):
        return pb.AccessAnswer.FromString(self.opened(sealed))


class Scene:
    """The node berne; ada searched it, eve is another analyst."""

    def __init__(self, folder, *, world=None, images=3, config=()):
        folder.mkdir(exist_ok=True)
        self.world = world or World()
        self.home, archive = make_node(folder)
        for old, new in config:
            configure(self.home, old, new)
        self.files = [png(archive / f"secret-{number}.png", number) for number in range(images)]
        run(self.home)
        self.node = join(self.world, self.home, "berne", "127.0.0.1:1")
        self.world.knows(self.node)
        self.ada, self.eve = Caller(self, "ada"), Caller(self, "eve")
        self.trust()
        self.handles, self.query_id, self.bucket = self.search()
        self.auditor = make_auditor(self.home, self.world, identity=self.node)
        self.desk = self.make_desk()

    def trust(self, **changes):
        """Have the node hear of the trust bundle of this moment."""
        save_bundle(self.home.identity, self.world.signed_bundle(**changes), refreshed=self.world.clock())

    def search(self, asker=None):
        """Search as ada; returns the handles of all items, the query's id, and the handle of a bucket."""
        with closing(open_state(self.home)) as connection:
            ids = [item for (item,) in connection.execute("SELECT id FROM item ORDER BY id")]
        release = publish(self.home, self.world)
        codes = np.zeros((len(ids), 4), np.uint8)
        searcher = make_searcher(self.home, self.world, serve_codes(self.home, release, ids, codes))
        signed = (asker or Asker(self.world)).ask(release, codes[:1], k=len(ids))
        response = searcher.search(archive_pb2.ArchiveServiceSearchRequest(query=signed), Deadline.after(20))
        (answer,) = response.answers
        column = answer.item_handles
        handles = [column[at : at + 16] for at in range(0, len(column), 16)]
        return handles, response.query_id, answer.bucket_handles[:16]

    def make_desk(self, **how):
        return make_desk(self.home, self.world, self.auditor, self.identity, **how)

    def identity(self):
        return load_identity(self.home.identity)

    def asked(self, **how):
        """Have ada ask; returns the request's id."""
        sealed = self.ada.asks(**how)
        self.desk.answer(sealed)
        return self.ada.last.request_id

    def audit(self):
        """(kind, entry) of everything noted about access."""
        entries = [json.loads(each) for each in read_entries(self.home.audit)]
        return [(each["kind"].removeprefix("access."), each) for each in entries if each["kind"].startswith("access.")]
