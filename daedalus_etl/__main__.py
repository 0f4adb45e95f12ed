"""`python -m daedalus_etl` is `daedalus`."""

from daedalus_etl.cli import main

if __name__ == "__main__":
    main(prog_name="daedalus")
