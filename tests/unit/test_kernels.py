"""The order book kernel and what it is made of: exact sums, ranks, VPIN's buckets, and its refusals."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from daedalus_etl import kernels, profiles
from daedalus_etl.errors import DaedalusError
from daedalus_etl.kernels import base, book, exact, flow, ranks

VARIABLES = dict(profiles.load("laptop").variables)
US = 1_000_000
WINDOWED = ("60s", "300s", "900s", "5s", "sigma", "beta")


def numbers(seed: int, n: int) -> list[float]:
    pick = random.Random(seed)
    return [pick.choice([-1, 1]) * pick.random() * 10.0 ** pick.randint(-12, 14) for _ in range(n)]


# -- exact sums --------------------------------------------------------------------------------------------------


def test_a_sum_is_the_double_nearest_to_the_exact_one() -> None:
    total = np.zeros((2, exact.LIMBS), np.uint64)
    kept: list[float] = []
    for x in numbers(1, 3000):
        exact.add(total, 1, x)
        kept.append(x)
        if len(kept) % 3 == 0:
            gone = kept.pop(len(kept) // 2)
            exact.add(total, 1, -gone)
        assert exact.value(total, 1) == math.fsum(kept)
    for x in kept:
        exact.add(total, 1, -x)
    assert not total.any()


def test_a_term_is_rounded_once_half_to_even_at_the_last_bit() -> None:
    unit = 2.0**-128
    for x, want in ((unit, unit), (unit / 2, 0.0), (1.5 * unit, 2 * unit), (2.5 * unit, 2 * unit), (unit * 0.51, unit)):
        for sign in (1.0, -1.0):
            total = np.zeros((1, exact.LIMBS), np.uint64)
            exact.add(total, 0, sign * x)
            assert exact.value(total, 0) == sign * want


@pytest.mark.parametrize("x", [2.0**-100, 1.0, 0.1, 1e30, 2.0**126, 3e-17])
def test_a_number_goes_in_and_comes_out(x: float) -> None:
    total = np.zeros((1, exact.LIMBS), np.uint64)
    exact.add(total, 0, x)
    assert exact.value(total, 0) == x
    exact.add(total, 0, -2 * x)
    assert exact.value(total, 0) == -x


def test_a_product_and_its_lost_part_are_the_exact_product() -> None:
    for x, y in zip(numbers(2, 500), numbers(3, 500), strict=True):
        high, low = exact.product(x, y)
        assert Fraction(high) + Fraction(low) == Fraction(x) * Fraction(y)


def test_equal_values_have_no_variance() -> None:
    for x in (0.1, 1e-7, 123456.789, 3.3e11):
        total = np.zeros((2, exact.LIMBS), np.uint64)
        for _ in range(977):
            exact.add(total, 0, x)
            for part in exact.product(x, x):
                exact.add(total, 1, part)
        pair = np.zeros((5, 2))
        exact.pairs(total, 0, 2, np.zeros((2, exact.LIMBS), np.uint64), 0, np.zeros((1, exact.LIMBS), np.uint64), pair)
        assert exact.centred(977, pair[1, 0], pair[1, 1], pair[0, 0], pair[0, 1], pair[0, 0], pair[0, 1]) == 0.0


# -- ranks -------------------------------------------------------------------------------------------------------


def depth(nodes: Any, node: int) -> int:
    if node == 0:
        return 0
    return 1 + max(depth(nodes, nodes[node]["child"][0]), depth(nodes, nodes[node]["child"][1]))


def test_ranks_are_those_of_a_sorted_list() -> None:
    pick = random.Random(4)
    head, nodes = np.zeros(3, np.int64), np.zeros(3000, ranks.NODE)
    there: list[float] = []
    for _ in range(8000):
        if there and (pick.random() < 0.45 or len(there) > 2500):
            ranks.remove(head, nodes, there.pop(pick.randrange(len(there))))
        else:
            x = pick.choice([pick.random(), pick.randint(1, 9) * 0.01])
            bisect.insort(there, x)
            ranks.insert(head, nodes, x)
        x = pick.random()
        assert ranks.smaller(head, nodes, x, 0.001) == sum(x - v > 0.001 for v in there)


def test_ranks_stay_shallow_when_values_only_rise() -> None:
    n = 20_000
    head, nodes = np.zeros(3, np.int64), np.zeros(n + 1, ranks.NODE)
    for i in range(n):
        ranks.insert(head, nodes, 1.0 + i * 1e-6)
    assert depth(nodes, head[ranks.ROOT]) < 5 * math.log2(n)
    for i in range(n):
        ranks.remove(head, nodes, 1.0 + i * 1e-6)
    assert head[ranks.ROOT] == 0


# -- VPIN's buckets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_buckets_are_filled_unit_by_unit(seed: int) -> None:
    """Against integers of any size: whole 1e-9 units, each trade split exactly."""
    pick = random.Random(seed)
    volume = pick.choice([1, 7, 1_000_000_000, 2_500_000_000_000])
    f = np.zeros(1, flow.FLOW)
    bucket = np.zeros(4, np.int64)
    filled, net, full = 0, 0, []
    for _ in range(400):
        amount = pick.random() * 10.0 ** pick.randint(-9, 6) * volume * 1e-9 * pick.choice([1, 1, 1, 50])
        sign = pick.choice([1, -1, 0])
        flow.fill_buckets(f[0], bucket, amount, sign, volume)
        units = round(Fraction(amount * 1e9))
        while units >= volume - filled:
            step = min(volume - filled, units)
            whole = units // volume
            if filled == 0 and whole > 10:  # older ones are out of the window anyway
                units -= (whole - 8) * volume
                full = [abs(sign) * volume] * 8
                continue
            full.append(abs(net + sign * step))
            units -= step
            filled = net = 0
        filled += units
        net += sign * units
        assert (f[0]["fill"], f[0]["net"]) == (filled, net)
        if full:
            last = full[-4:]
            assert flow.vpin(f[0], bucket, volume) == pytest.approx(sum(last) / (len(last) * volume), rel=1e-15)
        else:
            assert math.isnan(flow.vpin(f[0], bucket, volume))


# -- the whole kernel --------------------------------------------------------------------------------------------


class Feed:
    """Random valid books and trades, in lane order, with ties and gaps."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.clock = 10**15
        self.mid = 100.0

    def books(self, n: int, first: int, step_us: int = 400_000) -> dict[str, Any]:
        r = self.random
        steps = r.integers(0, step_us, n)
        steps[r.random(n) < 0.01] += 301 * US
        steps[r.random(n) < 0.2] = 0
        clock = self.clock + np.cumsum(steps)
        self.clock = int(clock[-1])
        mid = self.mid + np.cumsum(r.integers(-2, 3, n)) * 0.01
        self.mid = float(mid[-1])
        spread = r.integers(1, 6, n) * 0.01
        columns: dict[str, Any] = {
            "lane_order": np.arange(first, first + n), "clock_us": clock, "origin_us": clock,
            "is_valid": r.random(n) < 0.95, "mid_price": mid, "spread": spread, "relative_spread": spread / mid,
            "bid_slope_regression": np.where(r.random(n) < 0.1, np.nan, r.random(n)),
            "ask_slope_regression": r.random(n), "cog_vs_mid": r.normal(size=n), "depth_0_5bps": r.random(n) * 10,
        }  # fmt: skip
        for side, sign in (("bid", -1), ("ask", 1)):
            missing = r.integers(1, 12, n)
            for i in range(10):
                there = np.where(i < missing, 1.0, np.nan)
                columns[f"{side}_price_L{i}"] = (mid + sign * (spread / 2 + i * 0.01)) * there
                columns[f"{side}_size_L{i}"] = r.integers(1, 50, n) * 0.1 * there
        return columns

    def trades(self, n: int, first: int, start: int, end: int) -> dict[str, Any]:
        r = self.random
        return {
            "lane_order": np.arange(first, first + n), "clock_us": np.sort(r.integers(start, end + 1, n)),
            "is_valid": r.random(n) < 0.97, "price": 100 + r.integers(-3, 4, n) * 0.01, "amount": r.random(n),
            "direction": r.integers(-1, 2, n).astype(np.int8),
        }  # fmt: skip


def new_kernel() -> Any:
    return kernels.load("orderbook")(VARIABLES)


def walk(kernel: Any, books: dict[str, Any], trades: dict[str, Any], cuts: list[int]) -> np.ndarray:
    """Batches of books; the trades that no batch took go to the next."""
    outs, used = [], 0
    for a, b in itertools.pairwise(cuts):
        near = {"bronze.trades": {k: v[used:] for k, v in trades.items()}}
        out, taken = kernel.advance({k: v[a:b] for k, v in books.items()}, near)
        used += taken["bronze.trades"]
        outs.append(out)
    kernel.finish({"bronze.trades": {k: v[used:] for k, v in trades.items()}})
    return np.concatenate(outs, axis=1)


def partition(feed: Feed, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    start = feed.clock
    books = feed.books(n, 0)
    return books, feed.trades(n, 0, start, feed.clock)


def test_a_restart_changes_no_bit_and_neither_do_batches() -> None:
    feed = Feed(1)
    hours = [partition(feed, n) for n in (1500, 40, 2500, 900)]  # the rings grow and wrap
    whole, cut = new_kernel(), new_kernel()
    pick = random.Random(2)
    for books, trades in hours:
        n = len(books["lane_order"])
        whole.start_partition()
        want = walk(whole, books, trades, [0, n])
        kept = cut.save()
        cut = new_kernel()
        cut.load(kept)
        cut.start_partition()
        got = walk(cut, books, trades, sorted({0, n, *(pick.randrange(1, n) for _ in range(9))}))
        np.testing.assert_array_equal(got, want)
        one, other = whole.save(), cut.save()
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_windows_keep_no_residue() -> None:
    """After many rows a window's values are those of a lane that has seen the window's rows only."""
    feed = Feed(3)
    long, recent = new_kernel(), new_kernel()
    start = feed.clock
    books = feed.books(6000, 0)
    none = {k: v[:0] for k, v in feed.trades(1, 0, start, feed.clock).items()}
    out = walk(long, books, none, [0, 6000])
    tail = 2500  # its 900 s windows lie within the last rows
    last = {k: v[6000 - tail :] for k, v in books.items()} | {"lane_order": np.arange(tail)}
    assert books["clock_us"][-1] - last["clock_us"][0] > 1200 * US
    again = walk(recent, last, none, [0, tail])
    columns = [i for i, name in enumerate(long.columns) if name.endswith(WINDOWED)]
    np.testing.assert_array_equal(out[columns, -50:], again[columns, -50:])
    assert not np.isnan(out[columns, -1]).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["lane_order"].__setitem__(5, 4), "twice, out of order or not at all"),
        (lambda c: c["lane_order"].__setitem__(slice(5, None), c["lane_order"][5:] + 1), "not at all"),
        (lambda c: c["clock_us"].__setitem__(7, c["clock_us"][6] - 1), "backwards"),
    ],
    ids=["twice", "missing", "backwards"],
)
@pytest.mark.parametrize("of", ["books", "trades"])
def test_rows_out_of_order_are_refused(spoil: Any, message: str, of: str) -> None:
    feed = Feed(4)
    books, trades = partition(feed, 20)
    books["is_valid"][:] = True
    spoil(books if of == "books" else trades)
    with pytest.raises(DaedalusError, match=message):
        walk(new_kernel(), books, trades, [0, 20])


def test_a_state_of_another_layout_is_refused() -> None:
    kept = new_kernel().save()
    kept["levels"] = np.zeros((4, 3))
    with pytest.raises(DaedalusError, match="another layout"):
        new_kernel().load(kept)


@pytest.mark.soak
def test_ten_million_rows_leave_no_residue() -> None:
    """All that the windows hold is the same as over the last rows alone; VPIN counts from the lane's beginning."""
    feed = Feed(5)
    long, recent = new_kernel(), new_kernel()
    rows, batch = 10_000_000, 50_000
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for _ in range(rows // batch):
        start = feed.clock
        books = feed.books(batch, 0, 60_000)
        trades = feed.trades(batch // 2, 0, start, feed.clock)
        long.start_partition()
        out = walk(long, books, trades, [0, batch])
        kept = [*kept[-1:], (books, trades)]
    for books, trades in kept:
        recent.start_partition()
        again = walk(recent, books, trades, [0, batch])
    columns = [i for i, name in enumerate(long.columns) if name != "vpin"]
    np.testing.assert_array_equal(out[columns, -5000:], again[columns, -5000:])
    assert np.isfinite(out[:, -5000:]).any(axis=1).all()
    assert len(long.ring) < 2**18
    assert len(long.deals) < 2**18


def test_the_columns_are_named_once() -> None:
    assert len(set(book.output_columns((5, 15)))) == len(book.output_columns((5, 15)))


def test_vpin_of_large_buckets_is_the_same_after_a_restart() -> None:
    """Sums beyond 2**53 units round: they go from the oldest bucket to the newest, wherever the ring was cut."""
    pick = random.Random(6)
    volume = 3_000_000_000_000_001
    f, bucket = np.zeros(1, flow.FLOW), np.zeros(5, np.int64)
    for _ in range(60):
        flow.fill_buckets(f[0], bucket, pick.random() * 4e6, pick.choice([1, -1]), volume)
        n = min(int(f[0]["full"]), 5)
        turned = np.zeros(5, np.int64)
        turned[:n] = bucket[np.arange(int(f[0]["full"]) - n, int(f[0]["full"])) % 5]
        g = f.copy()
        g[0]["full"], g[0]["valued"] = n, 0  # as `load` leaves it
        np.testing.assert_equal(flow.vpin(f[0], bucket, volume), flow.vpin(g[0], turned, volume))


def test_a_kernel_that_lacks_a_part_is_told_which() -> None:
    class Half(base.Kernel):
        def reads(self) -> tuple[str, ...]:
            return ()

    with pytest.raises(TypeError, match=r"advance.*load.*save"):
        Half({})  # type: ignore[abstract]
