"""Training: a pure init and step on one state, and a thin driver that runs many steps."""
