"""The watcher under a live feed: across a turn of the hour, with collectors' mischief, readers beside it and kills, it
ends as one quiet run, and nobody ever sees anything else (issue of the watcher; RELIABILITY, rows 1, 5, 6, 7)."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daedalus_etl.lanes import HOUR_US
from daedalus_etl.simulator import Market, simulate
from tests import harness, roots
from tests.feeder import Feeder, Feeding, Mischief
from tests.watching import (
    Onlooker,
    Part,
    Watcher,
    differences,
    last_clocks,
    published,
    published_lane,
    rows_that_cannot_wait,
    wait_until,
    with_keys,
)

START = datetime(2026, 2, 3, 22, 56, tzinfo=UTC)  # the hour turns after four minutes
MARKET = Market(hours=0.12, symbols=("BTC-USDT", "ETH-USDT"), start=START, seed=5, dirt=0.03,
                books_per_second=0.7, trades_per_second=0.7, quotes_per_second=0.7)  # fmt: skip
MANY = Market(hours=0.1, symbols=("SHIB-USDT",), start=START, seed=6, quotes_per_second=6)
TIDY = Mischief(duplicate=0.15)  # changes no row that was published
WILD = Mischief(late=0.08, very_late=0.08, duplicate=0.08, reordered=0.12, torn=0.12, growing=0.1, changed=0.08)
SPEED = 30
OPTIONS = ("--poll-interval", "0.5", "--workers", "2", "--var")
PATIENCE = 8  # s


@dataclass
class Scene:
    """What is fed, what one quiet run makes of all of it, and what was seen of the watcher."""

    feeders: tuple[Feeder, ...]
    data: Path
    quiet: Path
    want: dict[str, Part]
    exact: frozenset[str]
    onlookers: list[Onlooker] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)  # when the feed was over, while it ran
    closed_files: dict[str, int] = field(default_factory=dict)
    code: int = -1
    seconds: float = -1
    kills: int = 0
    log: str = ""

    @property
    def lasts(self) -> dict[tuple[str, str], int]:
        return {key: clock for feeder in self.feeders for key, clock in last_clocks(feeder).items()}

    def in_closed_hours(self, parts: dict[str, Part]) -> dict[str, Part]:
        """Those of silver's partitions after which the lane has a later one."""
        newest: dict[str, int] = {}
        for partition in self.want:
            if partition.startswith("silver/"):
                lane = partition.partition("/year=")[0]
                newest[lane] = max(newest.get(lane, 0), roots.hour_of(Path(partition)))
        return {
            partition: part for partition, part in parts.items()
            if partition.startswith("silver/")
            and roots.hour_of(Path(partition)) < newest[partition.partition("/year=")[0]]
        }  # fmt: skip


def scene(folder: Path, feeders: Sequence[Feeder], tidy: Sequence[str]) -> Scene:
    """The quiet run comes first: readers compare with it all the time."""
    quiet = folder / "quiet"
    for feeder in feeders:
        feeder.final(quiet)
    assert roots.run_child(quiet).code == 0
    data = folder / "data"
    (data / "raw" / "ready" / "ccxt").mkdir(parents=True)
    exact = {published_lane(lane, f.lanes) for f in feeders for lane in f.lanes if lane.symbol in tidy}
    return Scene(tuple(feeders), data, quiet, with_keys(quiet), frozenset(exact))


def play(scene: Scene, watcher: Watcher, kills: Sequence[float], speed: float, longest: float = 60) -> None:
    """Feed it all while readers look on; kill -9 and restart when so much of the feed has come; SIGTERM at the end."""
    feeding: list[Feeding] = []
    watcher.start()
    watcher.wait_ready()
    onlooker = Onlooker(scene.data, scene.want, scene.feeders[0], scene.exact)
    scene.onlookers.append(onlooker)
    try:
        with onlooker:
            feeding = [feeder.into(scene.data).begin(speed) for feeder in scene.feeders]
            slowest = max(feeding, key=lambda feed: feed.feeder.ends_us - feed.feeder.begins_us)
            span = slowest.feeder.ends_us - slowest.feeder.begins_us
            for share in kills:
                slowest.wait(lambda s=share: slowest.now_us >= slowest.feeder.begins_us + s * span)  # type: ignore[misc]
                watcher.kill()
                scene.kills += 1
                watcher.start()
            watcher.wait_ready()
            watcher.signal(signal.SIGHUP)
            for feed in feeding:
                feed.wait()
            watcher.wait_rows(rows_that_cannot_wait(scene.want, scene.lasts), longest)

            def settled() -> bool:
                assert watcher.is_running, watcher.log
                now = published(scene.data)
                scene.differences = differences(now, scene.want, scene.lasts)
                scene.closed_files = {name: part.files for name, part in scene.in_closed_hours(now).items()}
                return not scene.differences and set(scene.closed_files.values()) == {1}

            try:
                watcher.wait_still(1, longest)
                wait_until(settled, 20)
            except AssertionError as error:
                scene.differences.append(str(error)[-2000:])
            scene.code, scene.seconds = watcher.terminate()
    finally:
        for feed in feeding:
            feed.stop()
        scene.log = watcher.whole_log
        watcher.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two lanes of three channels, one with mischief, and one of many small segments, across a turn of the hour."""
    folder = tmp_path_factory.mktemp("live")
    simulate(folder / "market", MARKET)
    simulate(folder / "market", MANY, channels=("ticker",))
    feeders = (
        Feeder(folder / "market", segment_seconds=20, symbols=("BTC-USDT", "ETH-USDT"), seed=2,
               mischief={"BTC-USDT": TIDY, "ETH-USDT": WILD}),
        Feeder(folder / "market", segment_seconds=1, symbols=("SHIB-USDT",)),
    )  # fmt: skip
    made = scene(folder, feeders, ("BTC-USDT", "SHIB-USDT"))
    play(
        made,
        Watcher(made.data, folder / "scratch", *OPTIONS, f"channel_patience={PATIENCE}"),
        kills=(0.35, 0.75),
        speed=SPEED,
    )
    return made


def test_the_feed_has_all_that_is_to_be_met(live: Scene) -> None:
    hows = {step.how for feeder in live.feeders for step in feeder.steps}
    assert hows == {"whole", "torn", "chunk"}
    assert len(live.in_closed_hours(live.want)) == 7
    of_an_hour = [step.path.rpartition("/")[0] for step in live.feeders[1].steps]
    assert max(map(of_an_hour.count, of_an_hour)) > 150
    assert live.kills == 2


def test_readers_saw_no_wrong_row_none_twice_and_none_missing(live: Scene) -> None:
    """The onlooker would have failed the scene."""
    (onlooker,) = live.onlookers
    assert onlooker.passes > 20


def test_fed_live_it_ends_as_one_quiet_run(live: Scene) -> None:
    """Without a restart: all but the last rows, which wait for the other channel."""
    assert live.differences == []


def test_an_open_hour_never_has_a_hundred_files(live: Scene) -> None:
    assert max(live.onlookers[0].most_files.values()) < 100


def test_a_closed_hour_is_one_file_as_a_run_writes_it(live: Scene) -> None:
    assert set(live.closed_files.values()) == {1}
    mine, theirs = roots.files(live.data), roots.files(live.quiet)
    names = [name for name in theirs if str(Path(name).parent) in live.closed_files]
    assert len(names) == 7
    assert [name for name in names if name not in mine] == []
    assert [name for name in names if mine[name].read_bytes() != theirs[name].read_bytes()] == []


def test_sigterm_ends_it_in_time_and_well(live: Scene) -> None:
    assert live.code == 0, live.log[-3000:]
    assert live.seconds < 10
    assert "Traceback" not in live.log


def test_a_run_afterwards_adds_what_waited_and_changes_nothing(live: Scene) -> None:
    assert roots.run_child(live.data).code == 0
    assert differences(published(live.data), live.want) == []
    assert roots.states(live.data) == roots.states(live.quiet)
    again = roots.run_child(live.data)
    assert again.summary["made"] == 0


def test_once_is_a_run(live: Scene, tmp_path: Path) -> None:
    root = roots.copied(live.quiet, tmp_path / "once")
    with Watcher(root, tmp_path / "scratch", "--once", "--workers", "1") as watcher:
        assert watcher.wait() == 0, watcher.log
    roots.assert_same(root, live.quiet)


# -- soak ------------------------------------------------------------------------------------------------------------


def soak(folder: Path, feeders: Sequence[Feeder], tidy: Sequence[str], seed: int, minutes: float, kills: int) -> None:
    made = scene(folder, feeders, tidy)
    chance = random.Random(seed)
    spans = [(feeder.ends_us - feeder.begins_us) / 1e6 for feeder in feeders]
    moments = sorted(chance.uniform(0.02, 0.98) for _ in range(kills))
    speed = max(spans) / 60 / minutes
    # a channel is not silent between two of its segments, nor while the watcher starts again
    patience = PATIENCE + 3 * max(feeder.segment_us for feeder in feeders) / 1e6 / speed
    watcher = Watcher(made.data, folder / "scratch", *OPTIONS, f"channel_patience={patience:.0f}")
    play(made, watcher, moments, speed, longest=300)
    assert made.differences == []
    assert max(made.onlookers[0].most_files.values()) < 100
    assert made.code == 0
    assert made.seconds < 10
    assert "Traceback" not in made.log
    assert roots.run_child(made.data).code == 0
    assert differences(published(made.data), made.want) == []
    assert roots.states(made.data) == roots.states(made.quiet)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1])
def test_ten_minutes_of_simulated_lanes_with_kills_end_as_one_quiet_run(tmp_path: Path, seed: int) -> None:
    market = Market(hours=2.2, symbols=("BTC-USDT", "ETH-USDT"), start=START, seed=seed, dirt=0.02,
                    books_per_second=0.7, trades_per_second=0.7, quotes_per_second=0.7)  # fmt: skip
    simulate(tmp_path / "market", market)
    feeder = Feeder(tmp_path / "market", segment_seconds=20, seed=seed, mischief={"BTC-USDT": TIDY, "ETH-USDT": WILD})
    soak(tmp_path, [feeder], ("BTC-USDT",), seed, minutes=10, kills=15)


if harness.SHARED.exists():

    @pytest.mark.soak
    @pytest.mark.parametrize("seed", [1])
    def test_ten_minutes_of_captures_with_kills_end_as_one_quiet_run(tmp_path: Path, seed: int) -> None:
        feeder = Feeder(harness.SHARED, segment_seconds=15, seed=seed, symbols=("BTC-USDT", "ETH-USDT", "ETH-USD-ETH"),
                        mischief={"ETH-USD-ETH": WILD, "ETH-USDT": TIDY, "BTC-USDT": TIDY})  # fmt: skip
        soak(tmp_path, [feeder], ("BTC-USDT", "ETH-USDT"), seed, minutes=10, kills=15)

    def test_captures_cross_a_turn_of_the_hour() -> None:
        feeder = Feeder(harness.SHARED, segment_seconds=15, symbols=("BTC-USDT",), first_seconds=120, turn_after=60)
        assert feeder.begins_us // HOUR_US + 1 == feeder.ends_us // HOUR_US
