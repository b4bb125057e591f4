"""Commands in documents: the indented blocks that a reader is to type."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

FENCED = re.compile(r"^```.*?^```", re.M | re.S)
BLOCK = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n+)+")
PROGRAMS = ("repurpose-hpc", "mpirun", "python", "python3", "srun", "sbatch", "sudo", "pip", "export", ".")


class Block(NamedTuple):
    """A block of commands.

    Attributes:
        place: document and line.
        lines: one a command, continued lines joined.
    """

    place: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a shell."""
        return "\n".join(self.lines)


def blocks(name: str) -> list[Block]:
    """The blocks of commands of a document; others show output, files or formulas."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = FENCED.sub(lambda fenced: "\n" * fenced[0].count("\n"), text)
    found = []
    for block in BLOCK.finditer(text):
        joined = block[0].replace("\\\n", " ").strip().splitlines()
        lines = tuple(" ".join(line.split()) for line in joined if line.strip())
        if lines and lines[0].split()[0] in PROGRAMS:
            found.append(Block(f"{name}:{text[: block.start()].count(chr(10)) + 1}", lines))
    return found


def command_words(line: str) -> list[str]:
    """The words behind the name of the program; none if the line starts another one.

    A batch script hands its arguments to the command that it is named after.
    """
    words = shlex.split(line, comments=True)
    if words[0] == "sbatch":
        (script,) = (word for word in words if word.endswith(".sbatch"))
        return [Path(script).stem, *words[words.index(script) + 1 :]]
    starts = [place for place, word in enumerate(words) if Path(word).name == "repurpose-hpc"]
    if starts:
        return words[starts[0] + 1 :]
    modules = [place for place, word in enumerate(words) if word.startswith("repurpose_hpc.")]
    return [words[modules[0]].removeprefix("repurpose_hpc."), *words[modules[0] + 1 :]] if modules else []
