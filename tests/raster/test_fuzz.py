"""Mutated files of every format are read or refused; nothing else may happen. `make soak-formats` takes more."""

from __future__ import annotations

from soak_formats import FORMS, Soak

MUTANTS = 40  # of each format


def test_mutated_files_are_read_or_refused():
    soak = Soak(list(FORMS), 0, MUTANTS, seconds=float("inf"))
    soak.run()
    assert not {form: result.findings for form, result in soak.results.items() if result.findings}
    assert all(result.outcomes["refused"] for result in soak.results.values())
    assert sum(result.outcomes["read"] for result in soak.results.values()) > MUTANTS
    assert "S2A_MSIL2A" not in soak.said, "no decoder tells the name of a file"
