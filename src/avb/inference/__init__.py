"""Bayesian inference: an implicit posterior for any NumPyro model or log density."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
