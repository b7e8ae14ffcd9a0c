"""docs/configure.md has the flags that the programs have now."""

import subprocess
import sys

import pages


def test_the_tables_are_of_today():
    checked = subprocess.run(
        [sys.executable, pages.ROOT / "scripts" / "settings", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
