import sys
from pathlib import Path

# The models under test are those of an experiment, which is no part of the package.
sys.path.insert(0, str(Path(__file__).parents[2]))
