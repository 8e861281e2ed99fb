"""A process that appends to an audit log from several threads until it is killed, and says what was acknowledged."""

import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from rsfed.trust.audit_log import AuditLog, append_entry

THREADS = 3
START = datetime(2026, 3, 1, tzinfo=UTC)


def main(folder: Path, name: str) -> None:
    log = AuditLog(folder, None, now=START)
    said = threading.Lock()

    def tell(line: str) -> None:
        with said:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def append(thread: int) -> None:
        for number in range(1_000_000):
            mark = f"{name}-{thread}-{number}"
            if thread:
                log.sync(log.append({"at": 0, "kind": "test", "mark": mark}))
            else:  # as another command of the home does
                append_entry(folder, {"at": 0, "kind": "test", "mark": mark}, None, now=START)
            tell(f"entry {mark}")
            tell(f"head {log.durable().to_text()}")

    for thread in range(THREADS):
        threading.Thread(target=append, args=(thread,)).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
