"""Training: a pure init and step on one state, and a thin driver that runs many steps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
