"""A fault layer between Daedalus and the disk, for its main process and every process that it starts.

A test writes a `Plan`, `runs.daedalus(..., plan=plan)` starts the command with it, and `layer/sitecustomize.py`, which
Python imports by itself, puts `hooks` in the child between the program and `os`:

    plan.py     what is to go wrong: one frozen value, one environment variable
    areas.py    which part of a data root a path lies in; nothing else is touched
    counter.py  one count of operations, shared by all processes
    gate.py     every operation passes here: it is counted, then killed, failed, held up or written down
    hooks.py    os.* and open() lead to the gate
    files.py    open() for writing, with each write to the disk an operation of its own
    journal.py  what passed, with the bytes of the files
    disk.py     the disks that may be there after a power loss, from a journal
    runs.py     start, stop and kill the command

DuckDB's own writes do not pass here: it writes into staging only, and what it left counts as not on the disk until
somebody syncs it.
"""
