from avb.runs import RunConfig
from avb.training import FitConfig

TINY = RunConfig(
    "digits", method="gaussian_vae", latent_dim=2, width=8, depth=1, fit=FitConfig(epochs=13)
)
