"""Ranks from rows made by hand."""

import math

import pytest

from avb.runs._ranking import (
    SIMULATED,
    Bracket,
    Rank,
    elbo_bracket_of,
    evidence_bracket_of,
    ranks,
)


def row(quantity: str, kind: str, value: float, *, error: float = 0.0, estimator: str = "any"):
    return {
        "quantity": quantity,
        "kind": kind,
        "estimator": estimator,
        "nats_per_datum": value,
        "standard_error": error,
    }


ANNEALED = row("log p(x)", "lower bound", -9.0, error=0.3, estimator="annealed importance sampling")
SIMULATED_ROWS = [
    row(SIMULATED, "lower bound", -8.0, estimator="annealed importance sampling"),
    row(SIMULATED, "upper bound", -7.5, error=0.4, estimator="reverse annealing"),
]


def test_an_exact_elbo_is_known_up_to_three_standard_errors():
    document = {"rows": [row("ELBO", "exact", -10.0, error=0.1)]}
    assert elbo_bracket_of(document) == Bracket(-10.3, -9.7)


def test_a_critics_estimate_bounds_nothing():
    document = {"rows": [row("ELBO", "critic estimate, not a bound", -10.0)]}
    assert elbo_bracket_of(document) == Bracket(-math.inf, math.inf)


def test_the_elbo_of_another_posterior_does_not_count():
    rows = [row("ELBO of q + noise", "lower bound", -10.0), row("ELBO", "upper bound", -9.0)]
    assert elbo_bracket_of({"rows": rows}) == Bracket(-math.inf, -9.0)


def test_evidence_lies_between_the_annealed_bound_and_that_bound_plus_its_gap():
    bracket = evidence_bracket_of({"rows": [ANNEALED, *SIMULATED_ROWS]})
    assert bracket.low == pytest.approx(-9.9)
    # Gap 0.5, and three times the joint error of the three numbers, hypot(0.3, 0.4) = 0.5.
    assert bracket.high == pytest.approx(-9.0 + 0.5 + 1.5)


def test_without_simulated_data_evidence_has_no_upper_end():
    assert evidence_bracket_of({"rows": [ANNEALED]}).high == math.inf


def test_an_importance_weighted_bound_alone_ranks_nothing():
    document = {"rows": [row("log p(x)", "lower bound", -9.0, estimator="importance weighting")]}
    assert evidence_bracket_of(document) == Bracket(-math.inf, math.inf)


def test_ranks_are_ranges_where_brackets_overlap():
    first, second, third = Bracket(-1.0, 0.0), Bracket(-1.5, -0.5), Bracket(-9.0, -8.0)
    assert ranks([third, first, second]) == [Rank(3, 3), Rank(1, 2), Rank(1, 2)]
    assert [str(rank) for rank in ranks([third, first, second])] == ["3", "1–2", "1–2"]


def test_overlap_is_not_transitive():
    high, middle, low = Bracket(1.0, 2.0), Bracket(0.0, 1.5), Bracket(-1.0, 0.5)
    assert ranks([high, middle, low]) == [Rank(1, 2), Rank(1, 3), Rank(2, 3)]


def test_what_is_unknown_shares_every_rank():
    unknown = Bracket(-math.inf, math.inf)
    assert ranks([unknown, Bracket(0.0, 1.0)]) == [Rank(1, 2), Rank(1, 2)]
