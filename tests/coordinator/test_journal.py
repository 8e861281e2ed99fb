"""No audit line is lost to a disk that is full for a while."""

import asyncio
import sqlite3

from coordinator import audit
from coordinator.journal import Journal


async def test_lines_that_could_not_be_written_are_written_later(federation, monkeypatch):
    monkeypatch.setattr("coordinator.journal._AGAIN_S", 0.01)
    journal = Journal(federation.state, federation.clock)
    write, tries, written = journal._write, [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def full_at_first(lines):
        tries.append(len(lines))
        if len(tries) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        write(lines)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(journal, "_write", full_at_first)
    running = asyncio.create_task(journal.run())
    for number in range(2):
        journal.note("query.answered", "ada", query=number)
    await asyncio.wait_for(written.wait(), 20)
    journal.stop()
    await running
    with federation.state.reading() as connection:
        assert [e.data["query"] for e in audit.entries(connection, last=2)] == [0, 1]
