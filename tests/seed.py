"""The root of all tests' randomness; AVB_TEST_SEED runs them on other draws."""

import os

SEED = int(os.environ.get("AVB_TEST_SEED", "0"))
