"""docs/errors.md lists every closed reason of the code, with the class, exit code and status that it really has."""

import ast
import re
from pathlib import Path

import coordinator.cli
import coordinator.training.board  # noqa: F401 - as above
import node.cli
import node.endpoint.web
import node.training.consent  # noqa: F401 - as above
import rsfed.lab.processes  # noqa: F401 - as above
from rsfed.errors import error_classes

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
CLASSES = {cls.__name__: cls for cls in error_classes()}
STATUSES = {cls.grpc_status for cls in CLASSES.values()}
NO_REASONS = STATUSES | {  # other words in upper case
    "GRPC_VERBOSITY",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RSFED_ANALYST_HOME",
    "RSFED_BENCH_CACHE",
    "RSFED_COORDINATOR_HOME",
    "RSFED_NODE_HOME",
    "RSFED_TEST_DATA",
    "TIMED_OUT",
}


def words(tree, *, least_parts):
    """The texts in upper case below a part of the code that have so many parts."""
    texts = (each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return {text for text in texts if WORD.fullmatch(text) and len(text.split("_")) >= least_parts}


def named(node):
    """The words that a part of the code calls reasons, with the class that raises them, if it is said there."""
    if isinstance(node, ast.Call):
        cls = getattr(node.func, "id", "")
        given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
    elif isinstance(node, ast.ClassDef):
        cls = node.name
        given = [each.value for each in node.body if isinstance(each, ast.Assign) and each.targets[0].id == "reason"]
    elif isinstance(node, ast.Assign):
        cls = ""
        given = [node.value for target in node.targets if isinstance(target, ast.Name) and target.id == "reason"]
    else:
        return set()
    return {(word, cls if cls in CLASSES else "") for value in given for word in words(value, least_parts=1)}


def in_code():
    """Pairs of a reason and its class; the class is "" where only running the code would tell it."""
    pairs = set()
    for package in ("rsfed", "node", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(ROOT / "rsfed" / "v1"):
                continue
            tree = ast.parse(path.read_text())
            if not path.is_relative_to(ROOT / "rsfed" / "raster"):  # where such words are names of tags and options
                pairs |= {(word, "") for word in words(tree, least_parts=2) - NO_REASONS}
            pairs = pairs.union(*map(named, ast.walk(tree)))
    return pairs


def on_page():
    lines = (ROOT / "docs" / "errors.md").read_text().splitlines()
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]


def test_the_page_has_every_reason_of_the_code_and_no_other():
    assert {row[0] for row in on_page()} == {reason for reason, _ in in_code()}


def test_the_page_has_every_class_that_the_code_raises_a_reason_with():
    assert {(reason, cls) for reason, cls in in_code() if cls} <= {(row[0], row[1]) for row in on_page()}


def test_every_class_exit_code_and_status_of_the_page_is_the_true_one():
    for reason, cls, exit_code, status, remedy in on_page():
        assert remedy, reason
        if cls == "-":
            assert (exit_code, status) == ("-", "-"), reason
        else:
            assert (exit_code, status) == (str(int(CLASSES[cls].exit_code)), CLASSES[cls].grpc_status), reason


def test_the_page_is_in_order_and_says_nothing_twice():
    keys = [(row[0], row[1]) for row in on_page()]
    assert keys == sorted(set(keys))
