"""Adversarial Variational Bayes: implicit posteriors with bounds on every number.

Names are imported on first use, so that ``avb --help`` does not wait for JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
