"""What members of a federation rely on when others fail, lie about the past, or are put out. Real processes."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from federation import RSFED, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]


def outcomes(answer):
    return {o["node"]: o["status"] for o in answer["outcomes"]}


def hits_of(federation, answer, *, without):
    """Everything about each hit of the other nodes; a handle, fresh in every query, by the file that it means."""
    hits = [h for h in answer["queries"][0]["hits"] if h["node"] != without]
    files = {}
    for node in {h["node"] for h in hits}:
        handles = [h["handle"] for h in hits if h["node"] == node]
        files.update((r["handle"], r["file"]) for r in federation.resolve(node, handles)["resolved"])
    return [(h["node"], h["distance"], h["bucket_size"], files[h["handle"]]) for h in hits]


def by_node(rows):
    return {node: [row for row in rows if row[0] == node] for node in sorted({row[0] for row in rows})}


def test_a_node_killed_during_a_query_spoils_nobody_elses_hits(federation, image):
    whole = federation.query(image, "--k", "72")
    assert set(outcomes(whole).values()) == {"COMPLETE"}
    coast = federation.servers["coast"]
    coast.signal(signal.SIGSTOP)  # the query waits for coast, so the kill falls into it
    command = [*RSFED, "query", str(image), "--k", "72", "--home", str(federation.home("ada")), "--output", "json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=federation.environment)
    wait_until(lambda: _asked(federation, "alps") > 1, what="the query reached the other nodes")
    coast.kill()
    import json

    broken = json.loads(running.communicate(timeout=60)[0])
    assert running.returncode == 0
    assert outcomes(broken) == {"alps": "COMPLETE", "coast": "UNREACHABLE", "north": "COMPLETE"}
    assert by_node(hits_of(federation, broken, without="coast")) == by_node(
        hits_of(federation, whole, without="coast")
    )
    partial = federation.query(image, "--require-all", check=False)
    assert partial["exit"] == 3
    federation.serve("node", "coast")
    federation.wait_serving("coast")
