"""What each preset is, in words. Imports no JAX, so that the command line starts quickly."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """One row of the table of methods.

    Attributes:
        name: The preset's name in :data:`avb.PRESETS`.
        summary: The method in one line.
        posterior: What q(z|x) is.
        contrast: What r(z|x) is, if any.
        critic: What the critic minimises, if there is one.
        elbo: What the ELBO that training reports is.
        paper: Where the method comes from.
    """

    name: str
    summary: str
    posterior: str
    contrast: str
    critic: str
    elbo: str
    paper: str


METHODS = (
    MethodInfo(
        "gaussian_vae",
        "variational autoencoder",
        "diagonal Gaussian",
        "none",
        "none",
        "exact",
        "Kingma & Welling 2014, arXiv:1312.6114",
    ),
    MethodInfo(
        "iwae",
        "importance-weighted autoencoder",
        "diagonal Gaussian",
        "none",
        "none",
        "exact",
        "Burda et al. 2016, arXiv:1509.00519",
    ),
    MethodInfo(
        "flow_vae",
        "autoencoder with a flow posterior",
        "coupling flow",
        "none",
        "none",
        "exact",
        "Rezende & Mohamed 2015, arXiv:1505.05770",
    ),
    MethodInfo(
        "avb",
        "AVB as first published",
        "implicit",
        "prior",
        "logistic",
        "critic estimate",
        "Mescheder et al. 2017, arXiv:1701.04722",
    ),
    MethodInfo(
        "avb_adaptive",
        "AVB with adaptive contrast",
        "implicit",
        "its own moments",
        "weighted logistic",
        "critic estimate",
        "Mescheder et al. 2017, arXiv:1701.04722",
    ),
    MethodInfo(
        "sivi",
        "semi-implicit variational inference",
        "semi-implicit",
        "own mixture",
        "none",
        "lower bound",
        "Yin & Zhou 2018, arXiv:1805.11183",
    ),
    MethodInfo(
        "avb_self",
        "AVB against its own mixture",
        "semi-implicit",
        "anchored mixture",
        "logistic",
        "critic estimate",
        "this library",
    ),
)


def method_info(name: str) -> MethodInfo:
    """The row of one method, which must exist."""
    return next(info for info in METHODS if info.name == name)
