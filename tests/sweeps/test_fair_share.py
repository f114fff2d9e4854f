"""The order in which sweeps that share a cluster compute their runs."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from sweeps.fair_share import ASKING_SECONDS, LAPSE_SECONDS, QUANTUM_SECONDS, Answer, Bundles, Claim, FairShare, amounts

ONE: Bundles = [{"CPU": 1.0}]


class Simulated:
    """Sweeps with runs of one length, on a cluster; they ask as drivers do."""

    def __init__(self, nodes: Sequence[Mapping[str, float]]) -> None:
        self.shares = FairShare(nodes)
        self.now = 0.0
        self.sweeps: dict[str, Claim] = {}
        self.ends: list[tuple[float, str, int]] = []
        self.began: list[tuple[float, str]] = []
        self.numbers = itertools.count(1)

    def submit(self, name: str, owner: str, runs: int, wanted: Bundles = ONE, **more: object) -> None:
        self.sweeps[name] = Claim(name, name, owner, {}, wanted, runs)._replace(**more)

    def ask(self, name: str, renews: bool = False) -> Answer:
        claim = self.sweeps[name]
        answer = self.shares.report(claim._replace(renews=renews), self.now)
        if answer.granted:
            lease = next(self.numbers)
            held = {**claim.held, lease: claim.wanted}
            self.sweeps[name] = claim._replace(held=held, waiting=claim.waiting - 1)
            self.began.append((self.now, name))
        return answer

    def run(self, until: float, seconds: Mapping[str, float], every: float = 0.25) -> None:
        while self.now < until:
            for ended in [one for one in self.ends if one[0] <= self.now]:
                self.ends.remove(ended)
                _, name, lease = ended
                claim = self.sweeps[name]
                held = {number: what for number, what in claim.held.items() if number != lease}
                self.sweeps[name] = claim._replace(held=held)
                self._begin(name, seconds, renews=True)
            for name in self.sweeps:
                while self._begin(name, seconds):
                    pass
            assert self.used() <= sum(node["CPU"] for node in self.shares.nodes) + 1e-9
            self.now += every

    def _begin(self, name: str, seconds: Mapping[str, float], renews: bool = False) -> bool:
        granted = self.ask(name, renews).granted
        if granted:
            self.ends.append((self.now + seconds[name], name, max(self.sweeps[name].held)))
        return granted

    def used(self) -> float:
        return sum(one["CPU"] for claim in self.sweeps.values() for held in claim.held.values() for one in held)

    def count(self, until: float = float("inf")) -> Counter[str]:
        return Counter(name for when, name in self.began if when <= until)


def test_two_owners_share_two_slots_and_a_third_begins_within_two_runs_time() -> None:
    cluster = Simulated([{"CPU": 2.0}])
    seconds = {"a": 6.0, "b": 6.0, "c": 6.0}
    cluster.submit("a", "alice", 60)
    cluster.run(20, seconds)
    cluster.submit("b", "bob", 60)
    cluster.run(100, seconds)
    before = cluster.count(20)["a"]
    after = cluster.count()
    assert abs(after["a"] - before - after["b"]) <= 2
    cluster.submit("c", "carol", 10)
    cluster.run(250, seconds)
    assert next(when for when, name in cluster.began if name == "c") <= 100 + 2 * 6
    assert cluster.count()["c"] == 10


def test_owners_come_before_their_sweeps() -> None:
    cluster = Simulated([{"CPU": 4.0}])
    seconds = dict.fromkeys("abcd", 10.0)
    for name in "abc":
        cluster.submit(name, "alice", 50)
    cluster.submit("d", "bob", 50)
    cluster.run(200, seconds)
    count = cluster.count()
    assert abs(count["d"] - (count["a"] + count["b"] + count["c"])) <= 4  # a began with all four
    assert max(count[name] for name in "abc") - min(count[name] for name in "abc") <= 2


def test_priority_orders_the_sweeps_of_one_owner_only() -> None:
    cluster = Simulated([{"CPU": 1.0}])
    cluster.submit("low", "alice", 5)
    cluster.submit("high", "alice", 5, priority=3)
    cluster.submit("other", "bob", 5, priority=-3)
    cluster.run(200, dict.fromkeys(("low", "high", "other"), 10.0))
    order = [name for _, name in cluster.began if name != "other"]
    assert order == ["low"] * (order[0] == "low") + ["high"] * 5 + ["low"] * (5 - (order[0] == "low"))
    assert [name for _, name in cluster.began[:8]].count("other") >= 3


def test_a_limit_of_runs_at_a_time() -> None:
    cluster = Simulated([{"CPU": 8.0}])
    cluster.submit("a", "alice", 50, at_once=3)
    cluster.run(5, {"a": 100.0})
    assert len(cluster.sweeps["a"].held) == 3
    assert cluster.ask("a").why == "it may compute 3 runs at a time"


def test_a_large_run_is_not_overtaken_for_ever() -> None:
    cluster = Simulated([{"CPU": 4.0}])
    seconds = {"small": 5.0, "large": 5.0}
    cluster.submit("small", "alice", 100)
    cluster.run(8, seconds)
    cluster.submit("large", "bob", 3, wanted=[{"CPU": 1.0}] * 4)
    cluster.run(80, seconds)
    assert cluster.count()["large"] == 3
    first = next(when for when, name in cluster.began if name == "large")
    assert first <= 8 + QUANTUM_SECONDS + 2 * 5


def test_nothing_is_overcommitted_whatever_they_want() -> None:
    numbers = random.Random(7)
    cluster = Simulated([{"CPU": 3.0}, {"CPU": 2.0}, {"CPU": 1.0}])
    seconds = {}
    for name in "abcdefg":
        wanted = [{"CPU": numbers.choice([0.5, 1.0, 1.5])}] * numbers.randint(1, 3)
        cluster.submit(name, numbers.choice(["alice", "bob"]), numbers.randint(1, 30), wanted)
        seconds[name] = numbers.uniform(0.5, 20.0)
    cluster.run(1500, seconds)
    assert all(claim.waiting == 0 for claim in cluster.sweeps.values())


def test_what_can_never_start_is_stuck_and_keeps_nobody_waiting() -> None:
    cluster = Simulated([{"CPU": 2.0}, {"CPU": 2.0}])
    cluster.submit("large", "alice", 1, wanted=[{"CPU": 3.0}])
    cluster.submit("small", "bob", 4)
    assert cluster.ask("large") == Answer(
        False,
        "a run cannot be placed: it reserves 3 CPUs, and the cluster has 4 CPUs on 2 nodes",
        stuck=True,
    )
    assert all(cluster.ask("small").granted for _ in range(4))
    cluster.shares.nodes = [{"CPU": 4.0}]  # another node came
    assert not cluster.ask("large").stuck


def test_why_a_sweep_waits() -> None:
    cluster = Simulated([{"CPU": 2.0}])
    cluster.submit("mine", "alice", 9)
    cluster.submit("yours", "bob", 9, wanted=[{"CPU": 2.0}])
    assert cluster.ask("mine").granted
    assert cluster.ask("yours").why == "waiting for 2 CPUs, held by sweep mine of alice (1 run)"
    # One more of mine would fit, but it is bob's turn.
    assert (
        cluster.ask("mine").why
        == "waiting for 1 CPU, which its own runs hold, and it is the turn of sweep yours of bob"
    )


def test_whoever_no_longer_reports_holds_nothing() -> None:
    cluster = Simulated([{"CPU": 1.0}])
    cluster.submit("dead", "alice", 9)
    cluster.submit("alive", "bob", 9)
    assert cluster.ask("dead").granted
    cluster.now = LAPSE_SECONDS - 1
    assert not cluster.ask("alive").granted
    cluster.now = LAPSE_SECONDS + 1
    assert cluster.ask("alive").granted


def test_whoever_no_longer_asks_is_not_waited_for() -> None:
    cluster = Simulated([{"CPU": 2.0}])
    cluster.submit("hung", "alice", 9)
    cluster.submit("alive", "bob", 9)
    assert cluster.ask("hung").granted
    assert cluster.ask("alive").granted
    ended = cluster.sweeps["alive"]._replace(held={})
    cluster.sweeps["alive"] = ended
    cluster.now = ASKING_SECONDS + 1
    cluster.shares.report(cluster.sweeps["hung"]._replace(asks=False), cluster.now)  # its thread still reports
    assert cluster.ask("alive").granted
    assert cluster.ask("hung").why == "waiting for 1 CPU, held by sweep alive of bob (1 run)"


def test_a_turn_that_was_not_used_is_nobodys() -> None:
    cluster = Simulated([{"CPU": 1.0}])
    claim = Claim("a", "a", "alice", {}, ONE)
    other = Claim("b", "b", "bob", {}, ONE)
    assert cluster.shares.report(claim, 0.0).granted
    assert not cluster.shares.report(other, 0.1).granted
    cluster.shares.report(claim._replace(asks=False, wanted=None), 0.2)  # the answer was lost
    assert cluster.shares.report(other, 0.3).granted


def test_a_sweep_keeps_its_actors_for_a_moment() -> None:
    shares = FairShare([{"CPU": 1.0}])
    mine, yours = Claim("a", "a", "alice", {}, ONE, 9), Claim("b", "b", "bob", {}, ONE, 9)
    assert shares.report(mine, 0.0).granted
    shares.report(yours, 0.1)
    assert shares.report(mine._replace(renews=True), 1.0).granted
    assert not shares.report(mine._replace(renews=True), 1.0 + QUANTUM_SECONDS).granted
    assert shares.report(yours, 1.1 + QUANTUM_SECONDS).granted


@pytest.mark.parametrize(
    ("wanted", "fit"),
    [
        ([{"GPU": 0.6}], 2),  # no actor spans two GPUs
        ([{"GPU": 0.5}], 4),
        ([{"GPU": 0.25}] * 3, 2),
        ([{"GPU": 2.0}], 1),
        ([{"GPU": 1.0}, {"GPU": 0.5}], 1),
        ([{"CPU": 0.1}], 30),
    ],
)
def test_parts_of_gpus(wanted: Bundles, fit: int) -> None:
    cluster = Simulated([{"CPU": 3.0, "GPU": 2.0}])
    cluster.submit("a", "alice", 100, wanted)
    granted = 0
    while cluster.ask("a").granted:
        granted += 1
    assert granted == fit


def test_resources_in_words() -> None:
    assert amounts({"CPU": 1.0, "GPU": 0.25}) == "1 CPU and 0.25 GPUs"
    assert amounts({"CPU": 2.0}, ["CPU", "GPU"]) == "2 CPUs and 0 GPUs"
    assert amounts({}) == "nothing"
