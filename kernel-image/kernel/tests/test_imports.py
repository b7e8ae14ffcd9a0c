"""The scan for missing imports, and the table of well-known packages."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from driver import Session
from kernelbox_kernel import imports


def missing(code: str, workspace: Path, **options: bool) -> dict[str, str]:
    return {entry["module"]: entry["distribution"] for entry in imports.scan(code, str(workspace), **options)[0]}


def unknown(code: str, workspace: Path) -> list[str]:
    return imports.scan(code, str(workspace))[1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import cv2", {"cv2": "opencv-python-headless"}),
        ("import sklearn.ensemble as e, os, numpy", {"sklearn": "scikit-learn"}),
        ("from sklearn.model_selection import train_test_split", {"sklearn": "scikit-learn"}),
        ("from bs4 import BeautifulSoup", {"bs4": "beautifulsoup4"}),
        ("from google.cloud import storage", {"google.cloud.storage": "google-cloud-storage"}),
        ("import google.cloud.storage.blob", {"google.cloud.storage": "google-cloud-storage"}),
        ("from google.cloud.bigquery import Client", {"google.cloud.bigquery": "google-cloud-bigquery"}),
        ("from azure.storage.blob import BlobServiceClient", {"azure.storage.blob": "azure-storage-blob"}),
        ("from mpl_toolkits.basemap import Basemap", {"mpl_toolkits.basemap": "basemap"}),
        ("from mpl_toolkits.mplot3d import Axes3D", {}),
        (
            "def f():\n    import humanize\n    async def g():\n        import polars",
            {"humanize": "humanize", "polars": "polars"},
        ),
        ("import importlib; importlib.import_module('humanize.i18n')", {"humanize": "humanize"}),
        ("from importlib import import_module\nimport_module('humanize')", {"humanize": "humanize"}),
        ("__import__('humanize')", {"humanize": "humanize"}),
        ("name = 'humanize'; __import__(name)", {}),
        ("await thing()\nimport humanize", {"humanize": "humanize"}),
        ("!ls\n%matplotlib inline\nimport humanize\nlen?", {"humanize": "humanize"}),
        ("%%time\nimport humanize", {"humanize": "humanize"}),
        ("%%timeit -n 1 -r 1\nimport humanize", {"humanize": "humanize"}),
        ("%time import humanize", {"humanize": "humanize"}),
        ("%%bash\nimport humanize", {}),
        ("%%writefile x.py\nimport humanize", {}),
        ("from . import humanize\nfrom .humanize import x", {}),
        ("import numpy, pandas.io, matplotlib.pyplot, __main__, builtins", {}),
        ("text = 'import humanize'  # import humanize", {}),
    ],
)
def test_what_is_found(code: str, expected: dict[str, str], tmp_path: Path) -> None:
    assert missing(code, tmp_path) == expected


def test_what_only_type_checkers_see_is_skipped(tmp_path: Path) -> None:
    code = """
import typing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import humanize
else:
    import polars
if typing.TYPE_CHECKING:
    import seaborn
"""
    assert missing(code, tmp_path) == {"polars": "polars"}


def test_optional_imports_are_skipped_and_their_substitutes_are_not(tmp_path: Path) -> None:
    code = """
try:
    import humanize
except (ImportError, OSError):
    import polars
try:
    import json
except ImportError:
    import simplejson as json
try:
    import seaborn
except ModuleNotFoundError:
    seaborn = None
"""
    assert missing(code, tmp_path) == {"polars": "polars"}


def test_an_import_within_any_other_try_is_meant(tmp_path: Path) -> None:
    code = "try:\n    import humanize\nexcept Exception as error:\n    print(error)\nfinally:\n    import polars"
    assert missing(code, tmp_path) == {"humanize": "humanize", "polars": "polars"}


def test_the_standard_library_of_any_platform_is_no_package(tmp_path: Path) -> None:
    assert (
        missing(
            "import winreg, msvcrt, tomllib, imp, distutils, _winapi, os.path, compression.zstd",
            tmp_path,
            any_package=True,
        )
        == {}
    )


def test_modules_of_the_workspace_are_no_packages(tmp_path: Path) -> None:
    (tmp_path / "humanize.py").touch()
    (tmp_path / "polars").mkdir()
    (tmp_path / "polars" / "__init__.py").write_text("raise SystemExit('a scan must not run this')")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part.py").touch()
    (tmp_path / "seaborn").mkdir()
    (tmp_path / "seaborn" / "plot.png").touch()
    code = "import humanize, polars.x, mine.part, seaborn"
    assert missing(code, tmp_path) == {"seaborn": "seaborn"}
    assert unknown(code, tmp_path) == []


def test_nothing_is_imported_or_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "google" / "cloud"
    package.mkdir(parents=True)
    (package / "storage.py").write_text("raise SystemExit")
    (tmp_path / "site" / "loud.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert missing("import loud\nfrom google.cloud import storage", tmp_path) == {}
    assert "google-cloud-bigquery" in missing("from google.cloud import bigquery, storage", tmp_path).values()


def test_names_outside_the_table_are_told_or_taken_as_they_are(tmp_path: Path) -> None:
    code = "import Some_Name.part, humanize, привет"
    assert missing(code, tmp_path) == {"humanize": "humanize"}
    assert unknown(code, tmp_path) == ["Some_Name", "привет"]
    assert missing(code, tmp_path, any_package=True) == {"Some_Name": "some-name", "humanize": "humanize"}


@pytest.mark.parametrize(
    "code",
    [
        "1 +",
        "x = " + "(" * 3000 + ")" * 3000,
        "x" + ".y" * 50_000,
        "-" * 50_000 + "1",
        "if x:\n" * 200,
        "\0",
        "print 'x'",
        "",
    ],
    ids=["cut", "nested", "chain", "unary", "deep", "nul", "python2", "empty"],
)
def test_code_that_is_none_is_never_an_error(code: str, session: Session) -> None:
    session.say(op="scan", id=1, code=code, policy="known", workspace=str(session.workspace))
    answer = session.hear("scanned")
    assert (answer["id"], answer["missing"], answer["unknown"]) == (1, [], [])
    session.say(op="scan", id=2, code="import humanize", policy="known", workspace=str(session.workspace))
    assert [entry["module"] for entry in session.hear("scanned")["missing"]] == ["humanize"]


def test_scans_are_answered_in_order_and_beside_each_other(session: Session) -> None:
    for number in range(20):
        session.say(
            op="scan", id=number, code=f"import humanize, n{number}", policy="known", workspace=str(session.workspace)
        )
    answers = [session.hear("scanned") for _ in range(20)]
    assert [(answer["id"], answer["unknown"]) for answer in answers] == [(n, [f"n{n}"]) for n in range(20)]
    assert answers[0]["missing"] == [{"module": "humanize", "distribution": "humanize", "source": "same name"}]


def test_a_package_that_was_just_installed_is_seen(session: Session) -> None:
    def scan() -> list[str]:
        session.say(op="scan", id=1, code="import humanize", policy="known", workspace=str(session.workspace))
        return [entry["module"] for entry in session.hear("scanned")["missing"]]

    assert scan() == ["humanize"]
    (session.packages / "humanize").mkdir()
    (session.packages / "humanize" / "__init__.py").touch()
    assert scan() == []


def test_a_scan_that_takes_too_long_is_given_up_and_the_next_works(session: Session) -> None:
    """The scanner is stopped, as if its parser did not come back."""
    session.say(op="scan", id=1, code="import json", policy="known", workspace=str(session.workspace))
    session.hear("scanned")
    children = Path(f"/proc/{session.pid}/task/{session.pid}/children").read_text().split()
    assert len(children) == 1
    session.say(
        op="signal", pid=int(children[0]), signal=signal.SIGSTOP, group=False
    )  # refused: it is not the supervisor's
    os.kill(int(children[0]), signal.SIGSTOP)
    session.say(op="scan", id=2, code="import humanize", policy="known", workspace=str(session.workspace))
    session.say(op="scan", id=3, code="import humanize", policy="known", workspace=str(session.workspace))
    assert "too long" in session.hear("scanned")["error"]
    answer = session.hear("scanned")
    assert (answer["id"], answer["error"], len(answer["missing"])) == (3, None, 1)


def test_a_scanner_that_crashes_is_replaced(session: Session) -> None:
    session.say(op="scan", id=1, code="import json", policy="known", workspace=str(session.workspace))
    session.hear("scanned")
    [child] = Path(f"/proc/{session.pid}/task/{session.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    answers = []
    for number in (2, 3):
        session.say(op="scan", id=number, code="import humanize", policy="known", workspace=str(session.workspace))
        answers.append(session.hear("scanned"))
    assert answers[1]["error"] is None
    assert answers[1]["missing"]


def rows() -> list[list[str]]:
    lines = Path(imports.TABLE).read_text().splitlines()
    assert lines[0] == "# import name\tdistribution\tsource"
    return [line.split("\t") for line in lines[1:]]


def test_the_table_is_well_formed() -> None:
    names = [row[0] for row in rows()]
    assert len(names) > 500
    assert names == sorted(set(names))
    for row in rows():
        assert len(row) == 3, row
        name, distribution, source = row
        assert all(part.isidentifier() for part in name.split(".")), row
        assert distribution == re.sub("[-_.]+", "-", distribution).lower(), row
        same = re.sub("[-_.]+", "-", name).lower() == distribution
        assert source == ("same name" if same else "project documentation"), row
        assert name not in imports.STANDARD, row


def test_the_table_knows_the_usual_mismatches() -> None:
    table = imports.table()
    expected = {
        "PIL": "pillow",
        "bs4": "beautifulsoup4",
        "dotenv": "python-dotenv",
        "dateutil": "python-dateutil",
        "Crypto": "pycryptodome",
        "fitz": "pymupdf",
        "docx": "python-docx",
        "pptx": "python-pptx",
        "serial": "pyserial",
        "usb": "pyusb",
        "jwt": "pyjwt",
        "skimage": "scikit-image",
        "attr": "attrs",
        "magic": "python-magic",
        "OpenSSL": "pyopenssl",
    }
    assert {name: table[name].distribution for name in expected} == expected
    json.dumps(table)
