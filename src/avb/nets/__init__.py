"""Networks that see one example; every one can be replaced by an Equinox module of the user's."""

from avb.nets._conv import ConvDecoder as ConvDecoder, ConvEncoder as ConvEncoder
from avb.nets._mlp import MLPDecoder as MLPDecoder, MLPEncoder as MLPEncoder
