"""What a posterior says of itself."""

import dataclasses
import math

import pytest

from avb.inference import Bracket, Importance
from avb.inference._verdict import judge

GOOD = {
    "bracket": Bracket(-1.01, -1.0, 0.001, 0.001, 2000, 2048),
    "importance": Importance(-0.99, 0.002, -0.98, 0.004, 1900.0, 0.3, 2048),
    "stalled": True,
    "steps": 2500,
    "lost": 0.0,
    "modes_open": False,
}


def with_importance(**changes) -> dict:
    return {"importance": dataclasses.replace(GOOD["importance"], **changes)}


def test_nothing_against_it():
    verdict = judge(**GOOD)
    assert verdict.converged
    assert str(verdict) == "converged"


def test_a_heavy_tail_of_equal_weights_is_no_reason():
    assert judge(**{**GOOD, **with_importance(pareto_k=3.0, effective=2047.0)}).converged


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stalled": False}, "the bound was still rising after 2500 steps"),
        ({"lost": 0.05}, "log p or its gradient was not finite at 5.0% of the draws"),
        ({"modes_open": True}, "the last starts still found new modes; there may be more"),
        (
            {"bracket": dataclasses.replace(GOOD["bracket"], lower=-1.5)},
            "the bracket of the ELBO is 0.50 nats wide",
        ),
        (
            with_importance(pareto_k=0.9),
            "Pareto k of the importance weights is 0.90, above 0.7",
        ),
        (
            with_importance(pareto_k=math.nan, effective=math.nan),
            "Pareto k of the importance weights is nan, above 0.7",
        ),
        (
            with_importance(log_evidence=-0.5),
            "its divergence from the target is at least 0.50 nats (draw with resample=True, which "
            "corrects it: 93% effective)",
        ),
    ],
)
def test_each_reason_is_said_aloud(changes, reason):
    verdict = judge(**{**GOOD, **changes})
    assert not verdict.converged
    assert verdict.reasons == (reason,)
    assert str(verdict) == f"NOT CONVERGED: {reason}"
