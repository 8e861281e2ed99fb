"""Memory of a round: what averages holds one result at a time, however many nodes send theirs at once.

`make bench-memory` measures all strategies with sixteen nodes.
"""

import pytest
from memory_of_a_round import sums_said, times_of_sums, times_the_model, write_result, write_sums

from coordinator.training.strategies import copies_held
from rsfed.config_strategies import FedAvgMSection, KrumSection


@pytest.mark.parametrize(
    ("section", "nodes"), [(FedAvgMSection(), 5), (KrumSection(), 5)], ids=["averages", "compares"]
)
def test_a_round_of_eleven_million_parameters_needs_no_more_than_it_says(tmp_path, section, nodes):
    assert times_the_model(write_result(tmp_path / "result"), section, nodes) < copies_held(section, nodes)


def test_a_run_of_the_closed_form_holds_the_sums_of_one_node_at_a_time(tmp_path):
    nodes, projections = 12, 2048
    measured = times_of_sums(write_sums(tmp_path / "sums", projections), nodes, projections)
    assert measured < sums_said(nodes, projections)


def test_a_run_of_the_closed_form_says_little_more_for_more_nodes():
    assert sums_said(16) < 1.3 * sums_said(3)


@pytest.mark.parametrize("nodes", [3, 16, 1000])
def test_what_averages_says_less_than_six_times_the_model_however_many_nodes(nodes):
    assert copies_held(FedAvgMSection(), nodes) == 6
