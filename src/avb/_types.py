"""Shapes and aliases used across the package.

One symbol per axis, in annotations and docstrings alike: ``d`` latent dimensions,
``f`` features of a datum, ``e`` noise dimensions, ``k`` mixture components,
``n`` data in a batch, ``m`` contrast draws.
"""

from jaxtyping import Array, Float, PRNGKeyArray

Scalar = Float[Array, ""]
Latent = Float[Array, " d"]
Features = Float[Array, " f"]
Noise = Float[Array, " e"]
Datum = Float[Array, "..."]
Data = Float[Array, "n ..."]
Key = PRNGKeyArray
Shape = tuple[int, ...]
