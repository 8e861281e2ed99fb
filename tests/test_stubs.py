"""The checked-in stubs are what the protos say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_stubs_are_what_the_protos_generate(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "tools/generate_stubs.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    fresh = {p.name: p.read_bytes() for p in (tmp_path / "rsfed/v1").iterdir()}
    kept = {p.name: p.read_bytes() for p in (ROOT / "rsfed/v1").glob("*_pb2*")}
    assert fresh.keys() == kept.keys()
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run `make protos`"
