"""Densities over one latent vector: what a contrast or a tractable posterior gives for a datum."""

from avb.densities._base import AbstractDensity as AbstractDensity
from avb.densities._flow import FlowDensity as FlowDensity
from avb.densities._gaussian import (
    DiagonalGaussian as DiagonalGaussian,
    FullGaussian as FullGaussian,
)
from avb.densities._mixture import (
    DefensiveMixture as DefensiveMixture,
    GaussianMixture as GaussianMixture,
)
from avb.densities._prior import PriorDensity as PriorDensity
