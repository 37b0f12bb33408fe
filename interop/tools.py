"""Programs that some tests need and that no virtual environment has.

A test whose program is missing is skipped, and says what to install; where `INTEROP_TOOLS` is `required`, as in CI,
it fails.
"""

import os
import shutil

import pytest


def find(*names, package):
    """The path of the first of these programs that is there; `package` is Debian's that has it."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing(f"there is no {names[0]}: apt-get install {package}")
    return path


def missing(reason):
    """Skips the test, or fails it where everything has to be there."""
    if os.environ.get("INTEROP_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
