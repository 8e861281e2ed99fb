"""What a benchmark says and how it ends where it cannot run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["bench_hashing", "bench_hashing_scratch", "bench_federated"])
def test_without_its_images_a_benchmark_says_so_in_one_line(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-m", f"rsfed.lab.{name}"],
        env=os.environ | {"RSFED_TEST_DATA": str(tmp_path / "nowhere"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: the benchmark needs real images; set RSFED_TEST_DATA to the folder with ")
    assert str(tmp_path / "nowhere") in line
    assert line.endswith("[USAGE]")
