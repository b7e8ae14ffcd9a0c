"""pip in an environment of Kernelbox': however it is called, packages go beside the workspace."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parent.parent.parent / "site"


class Environment:
    """A virtual environment with Kernelbox' files in it, and the packages of a session."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.packages = folder / "environment", folder / "packages"
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        subprocess.run([self.folder / "bin/pip", "install", "--quiet", "six==1.16.0"], check=True)
        self.site = next(self.folder.glob("lib/python3*/site-packages"))
        shutil.copytree(SITE, self.site, dirs_exist_ok=True)
        self.before = self.own()

    def own(self) -> set[str]:
        """What is in the environment itself."""
        return {name for name in os.listdir(self.site) if name != "__pycache__"}

    def session(self) -> set[str]:
        """The distributions of the session, with their versions."""
        return {folder.name.removesuffix(".dist-info") for folder in self.packages.glob("*.dist-info")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, as a kernel does."""
        program, *rest = arguments
        environment = {**os.environ, "KERNELBOX_PACKAGES": str(self.packages)}
        call = [str(self.folder / "bin" / program), *rest]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pip as most programs do."""
        return self.run("python", "-m", "pip", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment that the tests share."""
    return Environment(tmp_path_factory.mktemp("pip"))


@pytest.fixture
def environment(made: Environment) -> Environment:
    """The environment, with a session that has nothing yet."""
    shutil.rmtree(made.packages, ignore_errors=True)
    made.packages.mkdir()
    return made


def test_what_is_lacking_goes_beside_the_workspace_and_nothing_else(environment: Environment) -> None:
    # python-dateutil needs six, which is there.
    done = environment.pip("install", "python-dateutil==2.9.0")
    assert done.returncode == 0, done.stderr
    assert "Successfully installed python-dateutil" in done.stdout
    assert (environment.session(), environment.own()) == ({"python_dateutil-2.9.0"}, environment.before)
    used = environment.run("python", "-c", "import dateutil; print(dateutil.__file__)")
    assert used.stdout.startswith(str(environment.packages)), used.stderr

    again = environment.pip("install", "python-dateutil", "six")
    assert (again.returncode, again.stdout) == (0, "Nothing to install: all of it is there.\n"), again.stderr


def test_its_command_is_the_same(environment: Environment) -> None:
    done = environment.run("pip", "install", "--quiet", "humanize")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(environment.session()) == 1 and environment.own() == environment.before


def test_a_newer_version_takes_the_place_of_an_older(environment: Environment) -> None:
    assert environment.pip("install", "humanize==4.9.0").returncode == 0
    assert environment.pip("install", "--upgrade", "humanize==4.10.0").returncode == 0
    assert environment.session() == {"humanize-4.10.0"}
    assert "humanize 4.10.0" in " ".join(environment.pip("list").stdout.split())


def test_another_version_of_what_the_environment_has_is_a_conflict(environment: Environment) -> None:
    done = environment.pip("install", "six==1.15.0")
    assert done.returncode == 1 and "six==1.16.0" in done.stdout and "six==1.15.0" in done.stderr, done
    assert environment.session() == set()


def test_what_cannot_be_had_is_told_in_pips_words(environment: Environment) -> None:
    done = environment.pip("install", "kernelbox-no-such-package")
    assert done.returncode == 1 and "No matching distribution found for kernelbox-no-such-package" in done.stderr


def test_files_of_requirements_and_folders_are_taken(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/pyproject.toml").write_text('[project]\nname = "own"\nversion = "1.2"\n')
    (tmp_path / "own/own.py").write_text("VALUE = 42\n")
    (tmp_path / "requirements.txt").write_text(f"humanize\nown @ file://{tmp_path}/own\n")
    done = environment.pip("install", "-r", str(tmp_path / "requirements.txt"))
    assert done.returncode == 0, done.stderr
    assert environment.run("python", "-c", "import own, humanize; print(own.VALUE)").stdout == "42\n"


def test_who_says_where_is_obeyed(environment: Environment, tmp_path: Path) -> None:
    assert environment.pip("install", "--target", str(tmp_path), "humanize").returncode == 0
    assert (tmp_path / "humanize").is_dir() and environment.session() == set()


def test_an_environment_that_the_code_makes_has_a_pip_of_its_own(environment: Environment, tmp_path: Path) -> None:
    assert environment.run("python", "-m", "venv", str(tmp_path / "own")).returncode == 0
    own = {**os.environ, "KERNELBOX_PACKAGES": str(environment.packages)}
    call = [str(tmp_path / "own/bin/pip"), "install", "--quiet", "humanize"]
    assert subprocess.run(call, env=own, check=False).returncode == 0
    assert environment.session() == set() and list(tmp_path.glob("own/lib/python3*/site-packages/humanize"))
