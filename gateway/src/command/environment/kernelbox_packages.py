"""Puts the packages that were installed for a session at the end of sys.path, in every Python of this environment."""

import os
import sys

_packages = os.environ.get("KERNELBOX_PACKAGES")
if _packages and _packages not in sys.path:
    sys.path.append(_packages)
