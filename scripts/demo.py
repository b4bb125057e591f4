"""Make the environment and run the bundled network on eight ranks.

Further arguments go to ``python -m repurpose_hpc.infer``.
"""

import os

import environment


def main() -> None:
    """Replace this process by ``mpirun -n 8 python -m repurpose_hpc.infer``."""
    options, arguments = environment.argument_parser(__doc__).parse_known_args()
    environment.prepare(set(), options.mpi)
    launcher = environment.mpi_command(environment.python(environment.VENV), 8)
    command = [*launcher, "-m", "repurpose_hpc.infer", *arguments]
    print(" ".join(command), flush=True)
    os.execve(command[0], command, environment.mpi_environment())


if __name__ == "__main__":
    main()
