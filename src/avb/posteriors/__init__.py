"""Approximate posteriors q(z|x): something to sample, with a density only where there is one."""

from avb.posteriors._base import (
    AbstractImplicitPosterior as AbstractImplicitPosterior,
    AbstractPosterior as AbstractPosterior,
    AbstractTractablePosterior as AbstractTractablePosterior,
)
from avb.posteriors._flow import FlowPosterior as FlowPosterior
from avb.posteriors._gaussian import (
    FullGaussianPosterior as FullGaussianPosterior,
    GaussianPosterior as GaussianPosterior,
)
from avb.posteriors._implicit import (
    BasisPosterior as BasisPosterior,
    ImplicitPosterior as ImplicitPosterior,
)
from avb.posteriors._mixture import MixturePosterior as MixturePosterior
from avb.posteriors._semi_implicit import SemiImplicitPosterior as SemiImplicitPosterior
