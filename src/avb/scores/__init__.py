"""Estimators of the score ∇_z log q(z|x) of posteriors that can only be sampled."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
