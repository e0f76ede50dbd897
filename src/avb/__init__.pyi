from ._architecture import Architecture as Architecture
from ._errors import AvbError as AvbError
