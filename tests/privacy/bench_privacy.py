"""The attack suite of the policy levels on real codes: `make bench-privacy`.

A release is trained on EuroSAT and one on UC Merced by the default of federations on a frozen trunk, and nodes that
hold their patches, each a file and an acquisition of its own, are attacked at every level and without protection.
Ends with one line of JSON for each attack and level, and one with what guard and audit cost. The images are found
through RSFED_TEST_DATA, their features kept in the folder RSFED_BENCH_CACHE. docs/output.md tells what the lines hold.
"""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from attacks.real import real
from attacks.suite import run

from rsfed.errors import RsfedError
from rsfed.lab.bench_images import EUROSAT, UCM


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        archives = [real(EUROSAT), real(UCM)]
    except RsfedError as error:
        sys.stderr.write(f"bench_privacy: {error} [{error.reason}]\n")
        return error.exit_code
    with TemporaryDirectory() as folder:
        return run(Path(folder), archives)


if __name__ == "__main__":
    sys.exit(main())
