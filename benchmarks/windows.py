"""Trades, tickers and bars against Polars, and trades against RANGE frames.

Polars (the optional dependencies `bench`) reads the same bronze, or the same silver, computes the same windows on one
thread and writes Parquet as compressed as ours. It does less: no validity, no duplicates by time, no exact sums, no
records of what is in, no fsync; and its windows take in later rows of the same clock value.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bronze
from benchmarks.measure import CannotMeasureError, Measured, cpu, in_turn, ratio
from daedalus_etl.lanes import Lane

WINDOWS = (5, 15, 60, 300, 900)
RANGE = Path(__file__).parent / "range"


def polars() -> Any:
    os.environ["POLARS_MAX_THREADS"] = "1"
    try:
        import polars as pl
    except ImportError:
        raise CannotMeasureError("Polars is not there: pip install 'daedalus-etl[bench]'") from None
    return pl


def flat(hours: list[list[str]]) -> list[str]:
    return [path for hour in hours for path in hour]


def _rolled(pl: Any, rows: Any, sums: dict[str, Any], form: str) -> Any:
    """The sums over every window, as columns `<name>_<h>s`. Polars has two forms; which is faster depends."""
    rows = rows.with_columns(**sums)
    if form == "by":
        return rows.with_columns(
            pl.col(name).rolling_sum_by("at", f"{h}s", closed="right").alias(f"{name}_{h}s")
            for h in WINDOWS for name in sums
        )  # fmt: skip
    added = [
        rows.rolling("at", period=f"{h}s", closed="right")
        .agg(pl.col(name).sum().alias(f"{name}_{h}s") for name in sums)
        .drop("at")
        for h in WINDOWS
    ]
    return pl.concat([rows, *added], how="horizontal")


def polars_trades(subject: bronze.Subject, lane: Lane, out: Path, form: str) -> Callable[[], None]:
    pl = polars()
    books = subject.beside(lane, "orderbook")

    def best(side: str) -> Any:
        return pl.col(side).list.first().struct.field("price")

    def work() -> None:
        trades = pl.read_parquet(
            flat(subject.paths(lane)),
            columns=["collected_at", "capture_ts", "timestamp", "trade_id", "side", "price", "amount", "cost",
                     "exchange", "symbol"],
            hive_partitioning=False,
        )  # fmt: skip
        trades = trades.unique(maintain_order=True).sort("capture_ts", "timestamp", "trade_id", maintain_order=True)
        trades = trades.with_columns(
            at=pl.col("capture_ts").dt.replace_time_zone(None), log_return=pl.col("price").log().diff()
        ).set_sorted("at")
        if books is not None:
            mids = pl.read_parquet(
                flat(subject.paths(books)), columns=["capture_ts", "bids", "asks"], hive_partitioning=False
            )
            mids = mids.select(
                at=pl.col("capture_ts").dt.replace_time_zone(None), mid_before=(best("bids") + best("asks")) / 2
            ).sort("at")
            trades = trades.join_asof(mids, on="at", allow_exact_matches=False)
            trades = trades.with_columns(
                effective_spread=2 * (pl.col("price") - pl.col("mid_before")).abs() / pl.col("mid_before")
            )
        sums = {
            "volume": pl.col("amount"),
            "dollar_volume": pl.col("price") * pl.col("amount"),
            "trade_count": pl.lit(1, pl.Int64),
            "known": pl.col("side").is_not_null().cast(pl.Int64),
            "buys": (pl.col("side") == "buy").cast(pl.Int64),
            "realized_var": pl.col("log_return") ** 2,
        }
        trades = _rolled(pl, trades, sums, form)
        trades = trades.with_columns(
            **{f"vwap_{h}s": pl.col(f"dollar_volume_{h}s") / pl.col(f"volume_{h}s") for h in WINDOWS},
            **{f"buy_ratio_{h}s": pl.col(f"buys_{h}s") / pl.col(f"known_{h}s") for h in WINDOWS},
            is_buy=pl.col("side") == "buy",
            signed_volume=pl.when(pl.col("side") == "buy").then(pl.col("amount")).otherwise(-pl.col("amount")),
            hour_of_day=pl.col("at").dt.hour(),
            day_of_week=pl.col("at").dt.weekday() - 1,
            is_weekend=pl.col("at").dt.weekday() >= 6,
        ).drop("known", "buys", *(f"{name}_{h}s" for h in WINDOWS for name in ("known", "buys")))
        trades.write_parquet(out / "polars-trades.parquet", compression="zstd", compression_level=1)

    return work


def polars_ticker(subject: bronze.Subject, lane: Lane, out: Path, form: str) -> Callable[[], None]:
    pl = polars()

    def work() -> None:
        quotes = pl.read_parquet(flat(subject.paths(lane)), hive_partitioning=False).drop("info_json", strict=False)
        quotes = quotes.unique(maintain_order=True).sort("capture_ts", "timestamp", maintain_order=True)
        quotes = quotes.with_columns(
            at=pl.col("capture_ts").dt.replace_time_zone(None),
            mid_price=(pl.col("bid") + pl.col("ask")) / 2,
            spread=pl.col("ask") - pl.col("bid"),
            volume_imbalance=(pl.col("bid_volume") - pl.col("ask_volume"))
            / (pl.col("bid_volume") + pl.col("ask_volume")),
        ).set_sorted("at")
        quotes = quotes.with_columns(
            relative_spread=pl.col("spread") / pl.col("mid_price"),
            hour_of_day=pl.col("at").dt.hour(),
            day_of_week=pl.col("at").dt.weekday() - 1,
            is_weekend=pl.col("at").dt.weekday() >= 6,
        )
        if form == "by":
            quotes = quotes.with_columns(
                one
                for h in WINDOWS
                for one in (
                    pl.col("mid_price").rolling_mean_by("at", f"{h}s", closed="right").alias(f"mid_price_mean_{h}s"),
                    pl.col("mid_price").rolling_std_by("at", f"{h}s", closed="right").alias(f"mid_price_std_{h}s"),
                    pl.col("spread").rolling_mean_by("at", f"{h}s", closed="right").alias(f"spread_mean_{h}s"),
                    pl.col("volume_imbalance")
                    .rolling_mean_by("at", f"{h}s", closed="right")
                    .alias(f"vol_imbalance_mean_{h}s"),
                )
            )
        else:
            added = [
                quotes.rolling("at", period=f"{h}s", closed="right")
                .agg(
                    pl.col("mid_price").mean().alias(f"mid_price_mean_{h}s"),
                    pl.col("mid_price").std().alias(f"mid_price_std_{h}s"),
                    pl.col("spread").mean().alias(f"spread_mean_{h}s"),
                    pl.col("volume_imbalance").mean().alias(f"vol_imbalance_mean_{h}s"),
                )
                .drop("at")
                for h in WINDOWS
            ]
            quotes = pl.concat([quotes, *added], how="horizontal")
        quotes.write_parquet(out / "polars-ticker.parquet", compression="zstd", compression_level=1)

    return work


def _against_polars(settings: Any, channel: str, form_of: Callable[..., Callable[[], None]]) -> Measured:
    polars()
    with bronze.scratch(settings.data) as root:
        subject = bronze.Subject(root, settings.hours, settings.profile)
        lane = subject.busiest(channel)
        forms = {form: form_of(subject, lane, root, form) for form in ("by", "rolling")}
        for work in forms.values():
            work()
        form = min(forms, key=lambda name: cpu(forms[name]))
        model = f"silver.{channel}"
        subject.publish(lane, model)
        times = in_turn({"ours": lambda: subject.publish(lane, model), "polars": forms[form]}, settings.repeats)
        return ratio(times["ours"], times["polars"], lane=str(lane), rows=subject.rows(lane), polars_form=form)


def trades(settings: Any) -> Measured:
    return _against_polars(settings, "trades", polars_trades)


def ticker(settings: Any) -> Measured:
    return _against_polars(settings, "ticker", polars_ticker)


def trades_range(settings: Any) -> Measured:
    """Ours over the same model with RANGE frames, by the same runner."""
    with bronze.scratch(settings.data) as root, bronze.scratch(settings.data) as other:
        ours = bronze.Subject(root, 1, settings.profile)
        theirs = bronze.Subject(other, 1, settings.profile, projects=(RANGE,))
        lane = ours.busiest("trades")
        for subject in (ours, theirs):
            subject.publish(lane, "silver.trades")
        times = in_turn(
            {
                "ours": lambda: ours.publish(lane, "silver.trades"),
                "range": lambda: theirs.publish(lane, "silver.trades"),
            },
            min(settings.repeats, 5),
        )
        return ratio(times["ours"], times["range"], lane=str(lane), rows=ours.rows(lane))


def polars_bars(files: dict[str, list[str]], durations: tuple[int, ...], out: Path) -> Callable[[], None]:
    pl = polars()

    def path(price: str) -> list[Any]:
        return [
            pl.col(price).first().alias("open"), pl.col(price).max().alias("high"), pl.col(price).min().alias("low"),
            pl.col(price).last().alias("close"), pl.col("clock_ts").first().alias("first_at"),
            pl.col("clock_ts").last().alias("last_at"),
        ]  # fmt: skip

    def returns() -> list[Any]:
        return [
            (pl.col("log_return") ** 2).sum().alias("realized_variance"),
            pl.col("log_return").var().alias("return_variance"),
        ]

    def means(**columns: str) -> list[Any]:
        return [pl.col(column).mean().alias(name) for name, column in columns.items()]

    aggregates = {
        "orderbook": [
            *path("mid_price"), *returns(), pl.len().alias("snapshot_count"),
            *means(mean_spread="spread", mean_relative_spread="relative_spread", mean_microprice="microprice",
                   mean_micro_minus_mid="micro_minus_mid", mean_l1_imbalance="imbalance_L1",
                   mean_total_imbalance="total_imbalance", mean_bid_depth="total_bid_depth",
                   mean_ask_depth="total_ask_depth", mean_smart_depth_imbalance="smart_depth_imbalance"),
            pl.col("spread").min().alias("min_spread"), pl.col("spread").max().alias("max_spread"),
            pl.col("ofi").sum().alias("sum_ofi"), pl.col("mlofi").sum().alias("sum_mlofi"),
            *(((pl.col(value) * pl.col("held")).sum() / pl.col("held").sum()).alias(f"tw_mean_{name}")
              for name, value in (("relative_spread", "relative_spread"), ("mid", "mid_price"))),
        ],
        "trades": [
            *path("price"), *returns(), pl.len().alias("trade_count"), pl.col("amount").sum().alias("volume"),
            pl.col("dollar_volume").sum(), pl.col("amount").filter(pl.col("is_buy")).sum().alias("buy_volume"),
            pl.col("amount").filter(~pl.col("is_buy")).sum().alias("sell_volume"),
            *means(mean_effective_spread="effective_spread"),
        ],
        "ticker": [
            *path("mid_price"), pl.len().alias("tick_count"),
            *means(mean_spread="spread", mean_relative_spread="relative_spread",
                   mean_volume_imbalance="volume_imbalance"),
            pl.col("spread").min().alias("min_spread"), pl.col("spread").max().alias("max_spread"),
        ],
    }  # fmt: skip

    def work() -> None:
        for channel, paths in files.items():
            names = {name for one in aggregates[channel] for name in one.meta.root_names()} - {"held"}
            rows = pl.read_parquet(paths, columns=sorted({*names, "clock_ts", "is_valid"}), hive_partitioning=False)
            rows = rows.filter("is_valid").with_columns(pl.col("clock_ts").set_sorted())
            if channel == "orderbook":
                held = pl.col("clock_ts").shift(-1) - pl.col("clock_ts")
                rows = rows.with_columns(held=held.dt.total_microseconds().clip(upper_bound=300_000_000))
            for duration in durations:
                bars = rows.group_by_dynamic("clock_ts", every=f"{duration}s").agg(aggregates[channel])
                bars.write_parquet(
                    out / f"polars-{channel}-{duration}.parquet", compression="zstd", compression_level=1
                )

    return work


def bars(settings: Any) -> Measured:
    """All bars of one symbol from its silver."""
    polars()
    with bronze.scratch(settings.data) as root:
        subject = bronze.Subject(root, settings.hours, settings.profile)
        lane = subject.busiest("orderbook")
        silver = ("silver.orderbook", "silver.trades", "silver.ticker")
        gold = ("gold.orderbook_bars", "gold.trades_bars", "gold.ticker_bars")
        subject.publish(lane, *silver, *gold)
        files = {name.partition(".")[2]: subject.published(name) for name in silver}
        durations = tuple(subject.profile.variables["bar_durations"])
        times = in_turn(
            {"ours": lambda: subject.publish(lane, *gold), "polars": polars_bars(files, durations, root)},
            settings.repeats,
        )
        rows = sum(subject.rows(x) for x in subject.lanes if x.symbol == lane.symbol)
        return ratio(times["ours"], times["polars"], symbol=lane.symbol, rows=rows)
