"""The command line ``avb``."""

from avb.cli._main import main as main
