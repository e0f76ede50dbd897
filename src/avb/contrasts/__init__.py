"""Contrasts r(z|x): densities that leave the critic as little to learn as possible."""

from avb.contrasts._anchored import AnchoredMomentContrast as AnchoredMomentContrast
from avb.contrasts._base import AbstractContrast as AbstractContrast
from avb.contrasts._learned import (
    FlowContrast as FlowContrast,
    GaussianContrast as GaussianContrast,
)
from avb.contrasts._mixture import MixtureContrast as MixtureContrast
from avb.contrasts._moments import MomentContrast as MomentContrast
from avb.contrasts._prior import PriorContrast as PriorContrast
from avb.contrasts._self import (
    AnchoredSelfContrast as AnchoredSelfContrast,
    SelfContrast as SelfContrast,
)
