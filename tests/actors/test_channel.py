"""How actors are connected, and what they exchange in a step."""

import threading
import time
from typing import Any

import pytest
import torch

import actors
from actors.buffers import Layout, SharedBuffers, pack_report, unpack_report, unpack_statistics
from actors.fleet import Fleet, split
from actors.local_peers import AVAILABLE, Listener, LocalPeer, PeerLost, share_memory
from actors.rendezvous import LOOPBACK, plan
from byzray import Setup, simulate
from byzray.cohort import Contribution
from byzray.metrics import Moments
from byzray.setups import Actors

COHORTS = (range(0, 3), range(3, 5))


def place(node: str, gpus: tuple[str, ...] = (), shares: bool = True) -> dict[str, Any]:
    return {"node": node, "address": f"10.0.0.{node}", "pid": 1, "shares": shares, "gpus": list(gpus)}


def test_actors_on_one_machine_need_no_group() -> None:
    rendezvous = plan([place("1"), place("1"), place("1")], 60)
    assert rendezvous.local == {1, 2}
    assert rendezvous.backend is None
    assert rendezvous.size == 3


def test_actors_on_several_machines_share_memory_with_the_server_on_its_machine_only() -> None:
    rendezvous = plan([place("1"), place("1"), place("2"), place("2")], 60)
    assert rendezvous.local == {1}
    assert rendezvous.backend == "gloo"
    assert rendezvous.host == "10.0.0.1"


def test_actors_that_cannot_share_memory_use_gloo() -> None:
    rendezvous = plan([place("1", shares=False), place("1", shares=False)], 60)
    assert not rendezvous.local
    assert rendezvous.backend == "gloo"
    assert rendezvous.host == LOOPBACK


@pytest.mark.parametrize(
    ("locations", "backend"),
    [
        ([place("1", ("0",)), place("1", ("1",)), place("1", ("2",))], "cpu:gloo,cuda:nccl"),
        ([place("1", ("0",)), place("2", ("0",))], "cpu:gloo,cuda:nccl"),
        ([place("1", ("0",)), place("1", ("0",)), place("1", ("1",))], None),
        ([place("1", ("0",)), place("2", ("0",)), place("2", ("0",))], "gloo"),
        ([place("1"), place("1", ("0",))], None),
    ],
    ids=["each its own", "on two machines", "one shared", "one shared afar", "one without"],
)
def test_nccl_is_used_where_every_actor_has_gpus_of_its_own(
    locations: list[dict[str, Any]], backend: str | None
) -> None:
    assert plan(locations, 60).backend == backend


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("moments", [True, False])
def test_the_parts_of_shared_buffers_are_disjoint_and_begin_at_cache_lines(moments: bool, slots: int) -> None:
    layout = Layout(7, 5, COHORTS, moments, statistics=3, slots=slots)
    shared = SharedBuffers(layout, torch.zeros(layout.total()))
    parts = [*(shared.submissions(step) for step in range(slots)), shared.message]
    parts += [shared.report(index, step) for step in (4, 5) for index in range(len(COHORTS))]
    for number, part in enumerate(parts, start=1):
        part.add_(number)
        assert part.storage_offset() % 16 == 0
    assert all((part == number).all() for number, part in enumerate(parts, start=1))
    assert [len(shared.rows(index, 0)) for index in range(2)] == [3, 2]
    assert shared.point.shape == (5,)
    assert shared.report(0, 6).data_ptr() == shared.report(0, 4).data_ptr()
    assert shared.submissions(6).data_ptr() == shared.submissions(4).data_ptr()
    assert (shared.submissions(5).data_ptr() == shared.submissions(4).data_ptr()) == (slots == 1)
    assert SharedBuffers(layout.alone(1), torch.zeros(layout.alone(1).total())).rows(0, 1).shape == (2, 5)


@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("carried", [True, False])
def test_a_report_holds_a_contribution_and_the_statistics_of_its_workers(moments: bool, carried: bool) -> None:
    # Like BatchNorm's, with shapes that do not fill a whole number of report entries.
    one = {"mean": torch.zeros(5), "count": torch.zeros((), dtype=torch.int64), "flags": torch.zeros(3, dtype=bool)}
    one = one if carried else {}
    numbers = sum(-(-buffer.nbytes // 4) for buffer in one.values())
    layout = Layout(7, 5, COHORTS, moments, statistics=numbers)
    shared = SharedBuffers(layout, torch.zeros(layout.total()))
    for index, workers in enumerate(COHORTS):
        count = len(workers)
        sampled = Moments.of(torch.randn(count, 5)) if moments else None
        sent = Contribution(torch.randn(count), sampled)
        buffers = {
            "mean": torch.randn(count, 5),
            "count": torch.arange(count) + 2**40,
            "flags": torch.randn(count, 3) > 0,
        }
        buffers = buffers if carried else {}
        pack_report(sent, buffers, shared.report(index, 1))
        received = unpack_report(shared.report(index, 1), layout, index, present=count - 1)
        assert torch.equal(received.losses_K, sent.losses_K)
        assert (received.sampled is None) == (sampled is None)
        if sampled is not None and received.sampled is not None:
            assert received.sampled.size == count - 1
            assert torch.equal(received.sampled.mean_D, sampled.mean_D)
            assert torch.equal(received.sampled.scatter, sampled.scatter)
        found = unpack_statistics(shared.report(index, 1), count, one)
        assert found.keys() == buffers.keys()
        assert all(torch.equal(found[name], buffer) for name, buffer in buffers.items())


@pytest.mark.skipif(not AVAILABLE, reason="processes share memory this way on Linux only")
def test_local_peers_share_memory_and_notice_a_closed_connection() -> None:
    listener = Listener(60)
    connected: list[LocalPeer] = []
    thread = threading.Thread(
        target=lambda: connected.extend(LocalPeer.connect(listener.path, rank, 60) for rank in (2, 1))
    )
    thread.start()
    accepted = listener.accept(2)
    thread.join()
    listener.close()
    assert set(accepted) == {1, 2}
    ours = share_memory(list(accepted.values()), 100)
    theirs = [peer.receive_memory(100) for peer in connected]
    theirs[0][3] = 7
    connected[0].notify()
    accepted[2].wait(time.monotonic() + 60)
    assert ours[3] == theirs[1][3] == 7
    for peer in connected:
        peer.close()
    with pytest.raises(PeerLost, match="closed by the other end"):
        accepted[1].wait(time.monotonic() + 60)
    with pytest.raises(PeerLost, match="closed by the other end"):
        accepted[1].notify()
    accepted[2].close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs: run the tests where they are")
def test_actors_with_a_gpu_each_compute_what_one_process_computes(ray_cluster: str, small_setup: Setup) -> None:
    setup = small_setup.changed(device="cuda")
    with Fleet("gpus", split(5, 1), Actors(workers_per_actor=5, cpus_per_actor=0.1, gpus_per_actor=1.0)) as fleet:
        apart, together = actors.simulate(setup, fleet=fleet), simulate(setup)
    torch.testing.assert_close(torch.from_numpy(apart.parameters), torch.from_numpy(together.parameters))
