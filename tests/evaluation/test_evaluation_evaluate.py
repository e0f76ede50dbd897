"""All numbers in one call: which rows each kind of posterior gets, and what turns them off."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import avb
from avb.evaluation import Estimate, EvaluationConfig, Verdict, _evaluate
from avb.evaluation._evaluate import PARTS, above_evidence
from avb.evaluation._verdict import Finding

SMALL = EvaluationConfig(
    draws=8,
    max_components=64,
    critics=2,
    importance_samples=20,
    annealed_data=2,
    temperatures=4,
    chains=2,
    quality_data=5,
)
OFF = dataclasses.replace(SMALL, critics=0, annealed_data=0, quality_data=0)
DATA = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)

EVIDENCE = [
    ("log p(x)", "lower bound", 6),
    ("log p(x)", "lower bound", 2),
    ("log p(x), simulated data", "lower bound", 2),
    ("log p(x), simulated data", "upper bound", 2),
]
GAPS = [
    ("approximation gap", "estimate, not a bound", 2),
    ("amortisation gap", "lower bound", 2),
]
ROWS = {
    "gaussian_vae": [
        ("ELBO", "exact", 6),
        *EVIDENCE,
        *GAPS,
        ("I(x; z)", "exact", 5),
        ("KL(q(z) ‖ p(z))", "exact", 5),
    ],
    "avb_self": [
        ("ELBO", "lower bound", 6),
        ("ELBO", "upper bound", 6),
        ("ELBO", "critic estimate, not a bound", 6),
        *EVIDENCE,
        *GAPS,
        ("I(x; z)", "lower bound", 5),
        ("I(x; z)", "upper bound", 5),
        ("KL(q(z) ‖ p(z))", "lower bound", 5),
        ("KL(q(z) ‖ p(z))", "upper bound", 5),
    ],
    "avb_adaptive": [
        ("ELBO", "critic estimate, not a bound", 6),
        ("ELBO", "upper bound", 6),
        ("ELBO, smoothed", "lower bound", 6),
        ("ELBO, smoothed", "upper bound", 6),
        ("ELBO", "critic estimate, not a bound", 6),
        EVIDENCE[0],
    ],
}
# Annealing compiles for long and is the same for every posterior: two of them do.
SETTINGS = {
    "gaussian_vae": SMALL,
    "avb_self": SMALL,
    "avb_adaptive": dataclasses.replace(SMALL, annealed_data=0),
}


def method(name: str) -> avb.Method:
    architecture = avb.Architecture((3,), 2, width=8, depth=1, likelihood="normal")
    return avb.PRESETS[name](architecture, key=jax.random.key(0))


def labels(evaluation: avb.Evaluation) -> list[tuple[str, str, int]]:
    return [(row.quantity, row.kind, len(row.values)) for row in evaluation.rows]


@pytest.fixture(scope="module", params=ROWS)
def evaluated(request):
    parts = {}

    def note(part: str, done: int, total: int) -> None:
        parts[part] = (done, total)

    with pytest.MonkeyPatch.context() as patch:
        # Which rows there are does not depend on how well critics are trained.
        for name in ("fresh_critic_elbo", "trained_on"):
            few = functools.partial(getattr(_evaluate, name), steps=20)
            patch.setattr(_evaluate, name, few)
        evaluation = avb.evaluate(
            method(request.param),
            DATA,
            key=jax.random.key(1),
            config=SETTINGS[request.param],
            progress=note,
        )
    return request.param, evaluation, parts


def test_every_row_says_what_it_is(evaluated):
    name, evaluation, _ = evaluated
    assert labels(evaluation) == ROWS[name]
    assert all(np.isfinite(row.values).all() for row in evaluation.rows)


def test_every_part_tells_its_progress(evaluated):
    _, _, parts = evaluated
    assert set(parts) <= set(PARTS)
    assert {"importance weighting", "active units"} <= set(parts)
    assert all(done == total for done, total in parts.values())


def test_the_verdict_is_the_flag_of_the_critics_row(evaluated):
    name, evaluation, _ = evaluated
    flags = {row.flag for row in evaluation.rows if row.estimator == "critic of training"}
    assert flags == (set() if name == "gaussian_vae" else {evaluation.verdict.flag})


def test_the_summary_is_ready_for_json(evaluated):
    name, evaluation, _ = evaluated
    document = evaluation.as_dict()
    assert [row["data"] for row in document["rows"]] == [count for _, _, count in ROWS[name]]
    assert (document["critic"] is None) == (name == "gaussian_vae")
    assert len(document["active_units"]["variances"]) == 2


def test_parts_that_are_off_leave_the_others_as_they_were(evaluated):
    name, evaluation, _ = evaluated
    fewer = avb.evaluate(method(name), DATA, key=jax.random.key(1), config=OFF)
    assert fewer.active is None
    bound = next(row for row in fewer.rows if row.quantity == "log p(x)")
    same = next(row for row in evaluation.rows if row.quantity == "log p(x)")
    np.testing.assert_array_equal(bound.values, same.values)
    if name == "avb_adaptive":
        assert labels(fewer) == [("ELBO", "critic estimate, not a bound", 6), EVIDENCE[0]]
        assert fewer.verdict is None


def row(values: list[float], error: float = 0.01) -> Estimate:
    return Estimate("", "lower bound", "", np.array(values), np.full(len(values), error), "")


def test_error_over_data_is_that_of_a_mean_of_other_data():
    assert row([1.0, 3.0]).standard_error_over_data == pytest.approx(1.0)
    assert row([1.0]).standard_error_over_data == np.inf
    assert "standard_error_over_data" not in row([1.0]).as_dict()
    # Importance weights may all be zero; NumPy's warning would be an error here.
    assert row([1.0, -np.inf]).standard_error_over_data == np.inf


SOUND = Verdict(
    sound=True,
    reasons=(),
    judge="fresh critics",
    too_high=Finding(-1.0, 0.1),
    too_low=Finding(0.0, 0.1),
)


def test_an_elbo_above_the_evidence_is_wrong_whatever_critics_say():
    # Of the claim, the data that were annealed count; 2 nats above, 0.5 of them allowed for.
    claim, annealed = row([-80.0, -82.0, 999.0]), row([-82.0, -84.0])
    simulated, reverse = row([-70.0, -60.0]), row([-69.5, -59.5])
    above = above_evidence(claim, annealed, simulated, reverse)
    assert above.nats == pytest.approx(1.5)
    assert above.error == pytest.approx(0.01)
    assert SOUND.beside_evidence(above).flag == (
        "1.5 ± 0.01 nats above log p(x) by annealed importance sampling, and what that misses on "
        "simulated data"
    )
    assert not SOUND.beside_evidence(above).sound


def test_a_thin_posterior_is_wrong_whatever_critics_say():
    assert SOUND.beside_thickness(0.4) is SOUND
    assert SOUND.beside_thickness(0.0158).flag == (
        "the posterior lies in thin sheets (thickness 0.016, 1 for a Gaussian), which critics "
        "hardly see"
    )


@pytest.mark.parametrize(
    "reverse",
    [
        pytest.param([-68.0, -58.0], id="the sampler's own gap is as large"),
        pytest.param([-70.0, -58.0], id="the gap is not known well"),
    ],
)
def test_an_elbo_that_may_lie_below_the_evidence_passes(reverse):
    claim, annealed = row([-80.0, -82.0]), row([-82.0, -84.0])
    above = above_evidence(claim, annealed, row([-70.0, -60.0]), row(reverse))
    assert SOUND.beside_evidence(above) is SOUND
