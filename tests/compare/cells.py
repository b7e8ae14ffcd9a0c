"""The cells to compare: `cells/*.ipy`, one kernel per file, cells apart by lines of `# %% name | directive`."""

import dataclasses
import pathlib

FOLDER = pathlib.Path(__file__).parent / "cells"
MARK = "# %%"


@dataclasses.dataclass(frozen=True)
class Cell:
    file: str
    name: str
    code: str
    # Lines to answer input requests with; None where nobody can answer.
    answers: tuple[str, ...] | None = None
    # Interrupt it once it has printed something, or once it asks for input.
    interrupt: bool = False
    # Go on listening for a second after it ended.
    settle: bool = False

    @property
    def id(self) -> str:
        return f"{self.file}/{self.name.replace(' ', '-')}"


def parse(file: str, text: str) -> list[Cell]:
    cells = []
    for part in ("\n" + text).split(f"\n{MARK} ")[1:]:
        head, _, code = part.partition("\n")
        name, *directives = (piece.strip() for piece in head.split("|"))
        answers, interrupt, settle = None, False, False
        for directive in directives:
            if directive.startswith("input:"):
                answers = tuple(answer.strip() for answer in directive.removeprefix("input:").split(" / "))
            elif directive == "interrupt":
                interrupt = True
            elif directive == "interrupt-at-input":
                answers, interrupt = (), True
            elif directive == "settle":
                settle = True
            else:
                raise ValueError(f"{file}: {name}: unknown directive {directive!r}")
        cells.append(Cell(file, name, code.rstrip("\n"), answers, interrupt, settle))
    return cells


def load() -> dict[str, list[Cell]]:
    files = {path.stem: parse(path.stem, path.read_text()) for path in sorted(FOLDER.glob("*.ipy"))}
    ids = [cell.id for cells in files.values() for cell in cells]
    assert len(ids) == len(set(ids)), "two cells of one name"
    return files
