"""Faults in a running command: Python imports this first in every process (see ``helpers.injection``).

Standard library only, and nothing of the package: what a process imports, and when, is part of the tests.
"""

import importlib.abc
import importlib.util
import json
import os
import sys

RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


class Injected(importlib.abc.MetaPathFinder):
    """An injection, until the module that it is for is imported."""

    def __init__(self, place, code, call, after, folder):
        self.module, _, self.attribute = place.partition(":")
        self.code, self.call, self.after, self.folder, self.calls = code, call, after, folder, 0

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if not self.attribute:
            self.happen(())
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.wrap(module)

        spec.loader.exec_module = exec_module
        return spec

    def wrap(self, module):
        *owners, name = self.attribute.split(".")
        owner = getattr(module, owners[0]) if owners else module
        function = getattr(owner, name)

        def wrapped(*arguments, **options):
            self.calls += 1
            happens = self.call in (0, self.calls)
            if happens and not self.after:
                self.happen(arguments)
            result = function(*arguments, **options)
            if happens and self.after:
                self.happen(arguments)
            return result

        setattr(owner, name, wrapped)

    def happen(self, arguments):
        # Compiled first: Python ends by SIGINT, whatever catches it, if text that it executes is interrupted.
        exec(compile(self.code, "injected", "exec"), {"arguments": arguments, "FOLDER": self.folder})


def begin():
    """Wait for the places of this process, if it is one of the package."""
    if "INJECTED" not in os.environ or not any("repurpose_hpc" in word for word in sys.orig_argv):
        return
    number = next((int(os.environ[name]) for name in RANK if name in os.environ), -1)
    folder = os.environ["INJECTED_FOLDER"]
    with open(os.path.join(folder, f"pid{number}"), "w") as file:
        file.write(str(os.getpid()))
    for one in json.loads(os.environ["INJECTED"]):
        process, place = one.pop("process"), one["place"]
        if process is None or process == number:
            injected = Injected(folder=folder, **one)
            if place:
                sys.meta_path.insert(0, injected)
            else:
                injected.happen(())


begin()
