"""Imported by Python itself at the start of each process that has this folder on PYTHONPATH."""

from tests.crash.faults import plan

found = plan.from_environment()
if found is not None:
    from tests.crash.faults import hooks

    hooks.install(found)
