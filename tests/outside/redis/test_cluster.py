"""Channels of a real Redis Cluster: any node brings what is published at any other, and one that is cut off is left."""

import pytest
from helpers.outage_check import QUICK
from helpers.process import eventually
from helpers.redis_server import Cluster


@pytest.fixture
def cluster(start_redis):
    # A node that must do without the others says so soon.
    flags = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    return Cluster([start_redis(*flags) for _ in range(6)])


async def hears_all_nodes(cluster, client, bystander):
    """Publishes at each living node, and returns the number of gaps before the last message of them."""
    living = [node for node in cluster.nodes if node.process.poll() is None]
    for node in living:
        node.command("PUBLISH", f"pub.user.{client.sub}", str(node.port))
    heard, numbers = [], []
    # Messages that are published at two nodes have no order.
    while len(numbers) < len(living):
        heard += await client.heard()
        numbers = [one[1] for one in heard if not isinstance(one, dict)]
    gaps = [one for one in heard if isinstance(one, dict)]
    assert sorted(numbers) == sorted(node.port for node in living), heard
    assert all(one["op"] == "gap" for one in gaps + await bystander.heard())
    return len(gaps)


async def test_a_killed_node_costs_a_gap_and_nobody_is_disconnected(start, cluster):
    server = start(*QUICK, redis=cluster)
    async with server.client("42") as client, server.client("nobody") as bystander:
        assert await hears_all_nodes(cluster, client, bystander) == 0
        [before] = cluster.subscribed()
        before.kill()
        eventually(lambda: cluster.subscribed() not in ([], [before]), "another node is there")
        others = [node for node in cluster.nodes if node is not before]
        eventually(lambda: all("cluster_state:ok" in node.command("CLUSTER", "INFO") for node in others),
                   "a replica has taken over", 60)
        # A node may have been left for the short time without a primary.
        eventually(lambda: server.ready() and cluster.subscribed(), "the subscription is up", 60)
        assert await hears_all_nodes(cluster, client, bystander) >= 1
        assert await client.ask(op="ping") == {"op": "pong"}


async def test_a_node_that_is_cut_off_is_left_and_taken_again_once_it_is_not(start, cluster):
    server = start(*QUICK, redis=cluster)
    async with server.client("42") as client, server.client("nobody") as bystander:
        assert await hears_all_nodes(cluster, client, bystander) == 0
        [here] = cluster.subscribed()
        others = [node for node in cluster.nodes if node is not here]
        for node in others:
            node.freeze()
        try:
            # It would go on to bring what is published at itself.
            server.wait_for_log(f"{here.port} says cluster_state:fail")
            server.wait_ready(False)
        finally:
            for node in others:
                node.thaw()
        eventually(cluster.is_whole, "the cluster is whole again", 60)
        eventually(lambda: server.ready() and cluster.subscribed(), "the subscription is up", 60)
        assert await hears_all_nodes(cluster, client, bystander) >= 1


def test_a_redis_that_is_no_node_is_told(start, redis):
    server = start(*QUICK, "--redis", f"redis+cluster://127.0.0.1:{redis.port}", redis=redis, ready=False)
    server.wait_for_log(f"127.0.0.1:{redis.port} is no node of a cluster")
    assert "is no node of a cluster" in server.admin("/readyz")[2]
