"""How fast this is, against yardsticks measured in the same run: `python -m benchmarks --help`."""
