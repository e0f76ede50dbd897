"""From the numbers of a diagnosis to the part at fault, and a sentence about it."""

from typing import Literal

from avb.contrasts import AbstractContrast, AnchoredMomentContrast
from avb.evaluation._thickness import THIN
from avb.evaluation._verdict import Finding

Fault = Literal[
    "none", "contrast", "critic lags", "critic too weak", "critic overshoots", "posterior too thin"
]


def name_fault(
    *,
    divergence: Finding,
    misfit: Finding,
    too_high: Finding,
    refitted_too_high: Finding,
    excess: Finding,
    thickness: float | None,
    tolerance: float,
) -> Fault:
    """The part at fault; see :class:`avb.evaluation.Diagnosis` for the numbers.

    Args:
        divergence: KL(q‖r).
        misfit: What a Gaussian with the moments of q would spare the critic.
        too_high: Error of the critic's ELBO.
        refitted_too_high: The same after the critic alone was trained on.
        excess: E_r[exp T] − 1.
        thickness: Of an implicit posterior.
        tolerance: Error that is no fault, in nats per datum.
    """
    # Before all else: what the critics of a diagnosis find of thin folds is a part of them.
    if thickness is not None and thickness < THIN:
        return "posterior too thin"
    if not too_high.exceeds(tolerance):
        return "critic overshoots" if excess.exceeds(tolerance) else "none"
    # The contrast first: what it leaves to be learnt, the critic has to learn again and again.
    if misfit.nats >= 0.5 * too_high.nats:
        return "contrast"
    return "critic lags" if refitted_too_high.nats <= 0.5 * too_high.nats else "critic too weak"


def in_words(
    fault: Fault,
    *,
    divergence: Finding,
    misfit: Finding,
    too_high: Finding,
    refitted_too_high: Finding,
    excess: Finding,
    thickness: float | None,
    contrast: AbstractContrast,
) -> str:
    """The fault, its size and what to do about it, in a sentence.

    Args:
        fault: As :func:`name_fault` gives it.
        divergence: KL(q‖r).
        misfit: What a Gaussian with the moments of q would spare the critic.
        too_high: Error of the critic's ELBO.
        refitted_too_high: The same after the critic alone was trained on.
        excess: E_r[exp T] − 1.
        thickness: Of an implicit posterior.
        contrast: r(z|x), which tells what would bring it closer to q.
    """
    size = f"the critic's ELBO is {too_high.nats:.2f} nats too high"
    if fault == "none":
        return f"No part is at fault: the critic misses {max(too_high.nats, 0.0):.2f} nats."
    if fault == "posterior too thin":
        return (
            f"The posterior is too thin: around a draw it spreads {thickness:.2g} times as far as "
            "over all, in its thinnest direction, and critics hardly see such folds. Do not trust "
            "the critic's ELBO without log p(x) beside it; train with less noise_reach "
            "(avb_adaptive has 1.0) or a higher floor (0.3), for fewer epochs, or with method "
            "'sivi'."
        )
    if fault == "critic overshoots":
        return (
            f"The critic overshoots: what it takes for q(z|x) integrates to "
            f"{1.0 + excess.nats:.2f}; give it more contrast draws, or a lower rate."
        )
    if fault == "critic lags":
        return (
            f"The critic lags: {size}, and training it alone leaves "
            f"{max(refitted_too_high.nats, 0.0):.2f}; raise critic_steps, "
            "critic_learning_rate or critic_final_rate, or lower learning_rate."
        )
    if fault == "contrast":
        return (
            f"The contrast is at fault: {size}, and of the {divergence.nats:.2f} nats that the "
            f"contrast leaves to the critic a Gaussian with the moments of q would spare it "
            f"{misfit.nats:.2f}; {_closer(contrast)}."
        )
    return (
        f"The critic is too weak: {size}, training it alone leaves {refitted_too_high.nats:.2f}, "
        "and no Gaussian contrast would spare it that; use ResidualCritic(quadratic=True) or a "
        "wider critic, or MixtureContrast."
    )


def _closer(contrast: AbstractContrast) -> str:
    """What would bring a contrast closer to the Gaussian with the moments of q."""
    if isinstance(contrast, AnchoredMomentContrast):
        points = len(contrast.anchors)
        return (
            f"its {points} points of noise are too few for these moments: give "
            f"AnchoredMomentContrast more (num_anchors={2 * points})"
        )
    if contrast.is_learned:
        return "it follows q too slowly: use AnchoredMomentContrast, or raise critic_learning_rate"
    return "use AnchoredMomentContrast or GaussianContrast"
