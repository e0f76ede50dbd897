"""Whether to believe a posterior, said aloud."""

import dataclasses

from avb.inference._measure import MAX_PARETO_K, Bracket, Importance
from avb.inference._restarts import Agreement

MAX_LOST = 0.01
MAX_WIDTH = 0.1
# By Pinsker's inequality no classifier can then be right in more than 55% of its guesses.
MAX_DIVERGENCE = 0.02
MAX_RHAT = 1.01
MAX_ACCURACY = 0.55


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the posterior converged, and all reasons why not.

    Attributes:
        converged: No reason speaks against it.
        reasons: One sentence each; empty if converged.
    """

    converged: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "converged" if self.converged else "NOT CONVERGED: " + "; ".join(self.reasons)


UNJUDGED = Verdict(
    converged=False,
    reasons=("a posterior without a density has no bracket to judge it by; see fresh_critics",),
)


def judge(
    bracket: Bracket,
    importance: Importance,
    *,
    stalled: bool,
    steps: int,
    lost: float,
    modes_open: bool,
    agreement: Agreement | None = None,
) -> Verdict:
    """All that speaks against a posterior.

    Args:
        bracket: Of its ELBO.
        importance: Its importance weights.
        stalled: Whether the bound had stopped rising.
        steps: Steps of training.
        lost: Share of draws at which log p was not finite.
        modes_open: Whether the last starts still found new modes.
        agreement: Of several restarts, if there were any.
    """
    reasons = []
    if not stalled:
        reasons.append(f"the bound was still rising after {steps} steps")
    if lost > MAX_LOST:
        reasons.append(f"log p or its gradient was not finite at {lost:.1%} of the draws")
    if modes_open:
        reasons.append("the last starts still found new modes; there may be more")
    # Written so that NaN is a reason, too.
    width = bracket.upper - bracket.lower
    if not width <= MAX_WIDTH:
        reasons.append(f"the bracket of the ELBO is {width:.2f} nats wide")
    if not importance.trusted:
        reasons.append(
            f"Pareto k of the importance weights is {importance.pareto_k:.2f}, above {MAX_PARETO_K}"
        )
    divergence = importance.log_evidence - bracket.upper
    noise = 3.0 * (importance.error + bracket.upper_error)
    if not divergence - noise <= MAX_DIVERGENCE:
        reason = f"its divergence from the target is at least {divergence:.2f} nats"
        if importance.trusted:
            share = importance.effective / importance.draws
            reason += f" (draw with resample=True, which corrects it: {share:.0%} effective)"
        reasons.append(reason)
    if agreement is not None and not (
        agreement.rhat <= MAX_RHAT and agreement.c2st <= MAX_ACCURACY
    ):
        reasons.append(
            f"the restarts disagree: R-hat {agreement.rhat:.3f}, C2ST {agreement.c2st:.3f}"
        )
    return Verdict(not reasons, tuple(reasons))
