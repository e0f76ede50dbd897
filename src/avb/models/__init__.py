"""Models p(x, z): a prior, a decoder and a likelihood."""

from avb.models._flow_prior import FlowPrior as FlowPrior
from avb.models._latent import LatentVariableModel as LatentVariableModel
from avb.models._likelihood import (
    AbstractLikelihood as AbstractLikelihood,
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    DecodedNormal as DecodedNormal,
    FamilyLikelihood as FamilyLikelihood,
    FixedNormal as FixedNormal,
    NegativeBinomial as NegativeBinomial,
    PixelNormal as PixelNormal,
    Poisson as Poisson,
)
