"""Compare what a commit and the working tree compute: a line for each case, status 1 if any differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import environment

from replay import compare
from replay.trees import BUILD, CaseFailed, Tree, check_out, finished, make_inputs, table_key


def main() -> None:
    """Run the comparison with the commit that the command line names."""
    (base,) = sys.argv[1:]
    began = time.monotonic()
    try:
        expected = base_results(_commit(base))
        differing = report(expected)
    except CaseFailed as failure:
        sys.exit(f"replay: {failure}")
    cases, seconds = len(expected), time.monotonic() - began
    verdict = f"{len(differing)} of {cases} cases differ" if differing else f"{cases} cases equal"
    print("\n".join([*differing, f"replay: {verdict} ({seconds:.0f} s)"]), flush=True)
    sys.exit(bool(differing))


def base_results(commit: str) -> dict[str, Path]:
    """Name and shards or outputs of every case by ``commit``, kept for the next time.

    Raises:
        CaseFailed: the base must be able to do all cases.
    """
    folder = BUILD / f"base-{commit}-{table_key()}"
    tree = Tree(check_out(commit), make_inputs(), folder)
    if not folder.exists():
        with finished(folder) as unfinished:
            unfinished.mkdir()
            for result in Tree(tree.root, tree.inputs, unfinished).do_all():
                if result.failure:
                    raise CaseFailed(f"the base failed: {result.name}: {result.failure}")
                print(f"base     {result.seconds:4.1f} s  {result.name}", flush=True)
    return tree.places()


def report(expected: dict[str, Path]) -> list[str]:
    """Do all cases by the working tree and print a line for each; returns a line for each that differs."""
    results = BUILD / "working"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    differing = []
    for result in Tree(environment.ROOT, make_inputs(), results).do_all():
        difference = result.failure or compare.first_difference(expected[result.name], result.path)
        if difference:
            differing.append(f"{result.name}: {difference}")
        verdict = "differs" if difference else "equal  "
        print(
            f"{verdict}  {result.seconds:4.1f} s  {differing[-1] if difference else result.name}", flush=True
        )
    return differing


def _commit(base: str) -> str:
    command = ["git", "rev-parse", "--verify", f"{base}^{{commit}}"]
    done = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"replay: {base} is no commit: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
