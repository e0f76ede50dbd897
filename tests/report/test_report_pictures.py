"""Pictures and tables from results made by hand."""

import io

import numpy as np
import pytest
from rich.console import Console

from avb import RunError
from avb.report import comparison_table, evaluation_table
from avb.report._figure import figure
from avb.report._panels import is_image, mosaic
from avb.report._pictures import _draw

ROW = {
    "quantity": "ELBO",
    "kind": "critic estimate, not a bound",
    "estimator": "critic of training",
    "nats_per_datum": -12.3456,
    "standard_error": 0.0123,
    "standard_error_over_data": 0.4502,
    "data": 10,
    "detail": "32 draws a datum",
}
BOUND = {
    **ROW,
    "quantity": "log p(x)",
    "kind": "lower bound",
    "estimator": "importance weighting",
    "nats_per_datum": -11.0,
}
DOCUMENT = {
    "run": "a",
    "method": "avb",
    "step": 7,
    "data": "toy",
    "settings": {"split": "test"},
    "rows": [ROW, BOUND],
}


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), True), ((8, 8, 3), True), ((8, 8, 1), True), ((8, 8, 5), False), ((64,), False)],
)
def test_what_counts_as_an_image(shape: tuple, expected: bool):  # noqa: FBT001
    assert is_image(shape) is expected


@pytest.mark.parametrize("channels", [(), (3,)])
def test_mosaic_puts_images_side_by_side(channels: tuple):
    images = np.zeros((2, 3, 4, 5, *channels))
    images[1, 2] = 0.5
    canvas = mosaic(images)
    assert canvas.shape == (2 * 5 - 1, 3 * 6 - 1, *channels)
    assert (canvas[5:, 12:] == 0.5).all()
    assert (canvas[4] == 1).all()


def test_mosaic_scales_values_out_of_range():
    images = np.array([-2.0, 0.0, 2.0]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(mosaic(images)[0, ::2], [0, 0.5, 1])


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (5,), (4, 4, 2)])
def test_any_shape_of_data_is_drawn(shape: tuple, tmp_path):
    data = np.random.default_rng(0).normal(size=(3, 4, *shape))
    _draw(tmp_path / "x.png", data, title="t", labels=["datum", "draw 1", "draw 2"])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "x.png").mkdir()
    with (
        pytest.raises(RunError, match=r"x\.png could not be written"),
        figure(tmp_path / "x.png", 1, 1),
    ):
        pass


def test_evaluation_table_says_what_each_number_is():
    text = text_of(evaluation_table(DOCUMENT))
    assert "avb on toy, test split, 10 data, step 7" in text
    assert "critic estimate, not a bound" in text
    assert "-12.346" in text
    assert "0.012" in text


def test_a_wrong_estimate_is_called_wrong_by_name():
    wrong = {**ROW, "flag": "0.5 ± 0.1 nats above the upper bound"}
    text = text_of(evaluation_table({**DOCUMENT, "rows": [wrong, BOUND]}))
    line = next(line for line in text.splitlines() if "-12.346" in line)
    assert line.split()[:3] == ["1", "ELBO", "wrong"]
    assert "Wrong: ELBO by the critic of training: 0.5 ± 0.1 nats above the upper bound" in text


def test_an_estimate_that_nothing_vouches_for_is_called_unconfirmed():
    doubted = {**ROW, "doubt": "the fresh critics find 1.3 nats less"}
    text = text_of(evaluation_table({**DOCUMENT, "rows": [doubted, BOUND]}))
    line = next(line for line in text.splitlines() if "-12.346" in line)
    assert line.split()[:3] == ["1", "ELBO", "unconfirmed"]
    assert "Unconfirmed: ELBO by the critic of training: the fresh critics find 1.3" in text


def test_diagnostics_stand_beside_the_number():
    row = {
        **BOUND,
        "effective_samples_median": 161.2,
        "effective_samples_min": 12.0,
        "pareto_k_median": 0.31,
        "pareto_k_share_above_0.7": 0.25,
    }
    units = {"active_units": 1, "variances": [1.0, 0.0], "errors": [0.0, 0.0]}
    document = {**DOCUMENT, "rows": [row], "active_units": units}
    text = " ".join(text_of(evaluation_table(document)).split())
    assert "effective size 161 (least 12); Pareto k̂ 0.31" in text
    assert "Active units: 1 of 2; a longer --kl-warmup may wake the others." in text


def comparison_row(documents: list[dict], run: str) -> list[str]:
    lines = text_of(comparison_table(documents)).splitlines()
    return next(line for line in lines if line.strip().startswith(f"{run} ")).split()


def test_evaluation_table_tells_monte_carlo_error_from_that_over_data():
    text = " ".join(text_of(evaluation_table(DOCUMENT)).split())
    assert "-12.346 0.012 0.450 10 2 log p(x)" in text
    assert "1 critic of training: 32 draws a datum" in text


def test_numbers_of_one_source_share_its_line():
    lower, upper = ({**BOUND, "kind": kind} for kind in ("lower bound", "upper bound"))
    document = {**DOCUMENT, "rows": [lower, ROW, upper]}
    lines = [line.strip() for line in text_of(evaluation_table(document)).splitlines()]
    assert "1, 3  importance weighting: 32 draws a datum" in lines
    assert "2  critic of training: 32 draws a datum" in lines


def test_a_sound_critic_is_called_sound_by_its_judge():
    verdict = {
        "sound": True,
        "doubts": [],
        "judge": "fresh critics",
        "too_high": {"nats": 0.021, "error": 0.004},
    }
    text = " ".join(text_of(evaluation_table({**DOCUMENT, "critic": verdict})).split())
    assert "whose ELBO is found to be 0.02 ± 0.00 nats too high (judge: fresh critics)" in text
    for against in ({"sound": False}, {"doubts": ["they find 1.3 nats less"]}):
        other = {**DOCUMENT, "critic": {**verdict, **against}}
        assert "Sound" not in text_of(evaluation_table(other))


def test_comparison_leaves_out_what_a_method_does_not_have():
    exact = {**ROW, "kind": "exact", "estimator": "Monte Carlo"}
    other = {**DOCUMENT, "run": "b", "rows": [exact, BOUND]}
    elbo, bound = ["-12.346", "±", "0.012"], ["-11.000", "±", "0.012"]
    ranked = ["–", "1–2", "1–2"]
    assert comparison_row([DOCUMENT, other], "a") == ["a", "avb", "–", *elbo, *bound, *ranked]
    assert comparison_row([DOCUMENT, other], "b") == ["b", "avb", *elbo, "–", *bound, *ranked]


def test_comparison_shows_how_far_a_lead_carries():
    difference = {"nats_per_datum": -0.432, "standard_error_over_data": 0.5}
    behind = {**DOCUMENT, "behind_best": difference}
    zero = {"nats_per_datum": 0.0, "standard_error_over_data": 0.0}
    best = {**DOCUMENT, "run": "b", "behind_best": zero}
    assert comparison_row([behind, best], "a")[-5:-2] == ["-0.432", "±", "0.500"]
    assert comparison_row([behind, best], "b")[-3] == "best"


def test_comparison_tells_the_critics_estimate_from_its_bound():
    upper = {**ROW, "kind": "upper bound", "nats_per_datum": -12.0}
    upper["estimator"] = "dual bound by the critic of training"
    row = comparison_row([{**DOCUMENT, "rows": [upper, ROW, BOUND]}], "a")
    assert row[2:9] == ["≤", "-12.000", "±", "0.012", "-12.346", "±", "0.012"]


def test_comparison_shows_a_bracket_or_its_one_end():
    lower = {**ROW, "kind": "lower bound", "estimator": "mixture of conditionals"}
    upper = {**lower, "kind": "upper bound", "nats_per_datum": -12.0}
    wrong = {**ROW, "flag": "too high"}
    bracket = {**DOCUMENT, "run": "b", "rows": [lower, upper, BOUND]}
    end = {**DOCUMENT, "run": "c", "rows": [upper, wrong, BOUND]}
    row = comparison_row([bracket, end], "b")
    assert row[2:7] == ["[-12.346,", "-12.000]", "±", "0.012", "–"]
    row = comparison_row([bracket, end], "c")
    assert row[2:10] == ["≤", "-12.000", "±", "0.012", "-12.346", "±", "0.012", "wrong"]
    doubted = {**ROW, "doubt": "its judges know less"}
    row = comparison_row([bracket, {**end, "rows": [upper, doubted, BOUND]}], "c")
    assert row[6:10] == ["-12.346", "±", "0.012", "unconfirmed"]


def test_comparison_ranks_brackets_that_do_not_overlap():
    exact = {**ROW, "kind": "exact", "estimator": "Monte Carlo"}
    worse = {**DOCUMENT, "run": "b", "rows": [exact, BOUND]}
    better = {**worse, "run": "c", "rows": [{**exact, "nats_per_datum": -9.0}, BOUND]}
    assert comparison_row([worse, better], "b")[-2] == "2"
    assert comparison_row([worse, better], "c")[-2] == "1"
