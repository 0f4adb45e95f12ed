"""Did a run over ../shared/data/bronze bring every captured row to silver once, and bars of them to gold?"""

import sys
from pathlib import Path

import duckdb

EXPECTED = {"orderbook": 58_641, "trades": 59_327, "ticker": 233_584}
LANES = 4
# the same row of a lane in bronze and in silver; silver knows a lane by its source symbol
SAME = """
    select exchange, {symbol} as symbol, collected_at, capture_ts, timestamp, {extra}, count(*) as rows
    from read_parquet('{files}', hive_partitioning = false, union_by_name = true)
    group by all
"""
EXTRA = {"orderbook": "nonce", "trades": "trade_id, side, price, amount", "ticker": "bid, ask, bid_volume, ask_volume"}


def differences(con: duckdb.DuckDBPyConnection, data: Path, channel: str) -> list[str]:
    silver_files = data / f"processed/silver/{channel}/**/*.parquet"
    bronze = SAME.format(
        symbol="translate(symbol, '/:', '--')",
        extra=EXTRA[channel],
        files=data / f"raw/ready/ccxt/{channel}/**/*.parquet",
    )
    silver = SAME.format(symbol="source_symbol", extra=EXTRA[channel], files=silver_files)
    found = []
    (rows, lanes) = con.execute(
        f"select count(*), count(distinct (exchange, source_symbol)) from read_parquet('{silver_files}')"
    ).fetchall()[0]
    if (rows, lanes) != (EXPECTED[channel], LANES):
        found.append(f"silver has {rows:,} rows of {lanes} lanes, not {EXPECTED[channel]:,} of {LANES}")
    for name, one, other in (("lost or changed", bronze, silver), ("doubled or invented", silver, bronze)):
        (count,) = con.execute(f"select count(*) from (({one}) except ({other}))").fetchall()[0]
        if count:
            found.append(f"{count:,} distinct rows were {name} on the way")
    bars = data / f"processed/gold/{channel}_bars"
    for duration in (60, 300):
        files = bars / f"{duration}s/**/*.parquet"
        (lanes,) = con.execute(
            f"select count(distinct (exchange, source_symbol)) from read_parquet('{files}')"
        ).fetchall()[0]
        if lanes != LANES:
            found.append(f"gold has bars of {duration} s of {lanes} lanes, not {LANES}")
    return found


def main() -> int:
    data = Path(sys.argv[1])
    con = duckdb.connect()
    wrong = {channel: differences(con, data, channel) for channel in EXPECTED}
    for channel, found in wrong.items():
        print(f"{channel:<10} {EXPECTED[channel]:>8,} rows", "; ".join(found) or "all there, once")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
