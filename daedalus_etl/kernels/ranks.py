"""How many values of a window are smaller: a treap with subtree counts, O(log n) a change and a question.

One node a distinct value. The priority of a node is a hash of its value, so the shape of the tree is a function of
the values alone, whatever the order in which they came and went. `nodes` is an array of NODE; node 0 is 'none'. `head`
(int64[3]) holds the root, the number of nodes ever used and the first of the free ones.
"""

import numpy as np
from numba import njit

NODE = np.dtype(
    [
        ("key", np.float64),
        ("child", np.int64, (2,)),  # left, right; of a free node: the next free one
        ("count", np.int64),  # of this value
        ("total", np.int64),  # of the subtree
    ]
)
LEFT, RIGHT = 0, 1
ROOT, USED, FREE = 0, 1, 2
DEPTH = 256  # of a path; a treap of 2**32 random priorities is some 100 deep at most


@njit(cache=True)
def _priority(x):
    h = np.float64(x).view(np.uint64)  # mixed by splitmix64 (Steele, Lea, Flood 2014)
    h = h + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit(cache=True)
def _above(nodes, a, b):
    """Is node a to stand above node b? Ties of the hash are broken by value, so the shape stays unique."""
    pa, pb = _priority(nodes[a]["key"]), _priority(nodes[b]["key"])
    return pa > pb or (pa == pb and nodes[a]["key"] > nodes[b]["key"])


@njit(cache=True)
def _count(nodes, node):
    child = nodes[node]["child"]
    nodes[node]["total"] = nodes[child[LEFT]]["total"] + nodes[child[RIGHT]]["total"] + nodes[node]["count"]


@njit(cache=True)
def _hang(head, nodes, parent, old, new):
    if parent == 0:
        head[ROOT] = new
    elif nodes[parent]["child"][LEFT] == old:
        nodes[parent]["child"][LEFT] = new
    else:
        nodes[parent]["child"][RIGHT] = new


@njit(cache=True)
def _rotate(head, nodes, parent, node, side):
    """The child of `node` on `side` takes its place; returns the child."""
    other = 1 - side
    child = nodes[node]["child"][side]
    nodes[node]["child"][side] = nodes[child]["child"][other]
    nodes[child]["child"][other] = node
    _hang(head, nodes, parent, node, child)
    _count(nodes, node)
    _count(nodes, child)
    return child


@njit(cache=True)
def insert(head, nodes, x):
    """Put one `x` in. The arrays must have a free row."""
    node = head[ROOT]
    while node != 0:
        nodes[node]["total"] += 1
        if nodes[node]["key"] == x:
            nodes[node]["count"] += 1
            return
        node = nodes[node]["child"][LEFT] if x < nodes[node]["key"] else nodes[node]["child"][RIGHT]
    _insert_new(head, nodes, x)


@njit(cache=True)
def _insert_new(head, nodes, x):
    """Put in an `x` that is not there; the subtrees above its place count it already. Most spreads are not new: only
    those that are need a path, which is an allocation."""
    path = np.empty(DEPTH, np.int64)
    depth = 0
    node = head[ROOT]
    while node != 0:
        path[depth] = node
        depth += 1
        node = nodes[node]["child"][LEFT] if x < nodes[node]["key"] else nodes[node]["child"][RIGHT]
    if head[FREE] != 0:
        node = head[FREE]
        head[FREE] = nodes[node]["child"][LEFT]
    else:
        head[USED] += 1
        node = head[USED]
    nodes[node]["key"] = x
    nodes[node]["child"][LEFT] = 0
    nodes[node]["child"][RIGHT] = 0
    nodes[node]["count"] = 1
    nodes[node]["total"] = 1
    if depth == 0:
        head[ROOT] = node
        return
    parent = path[depth - 1]
    if x < nodes[parent]["key"]:
        nodes[parent]["child"][LEFT] = node
    else:
        nodes[parent]["child"][RIGHT] = node
    while depth > 0 and _above(nodes, node, path[depth - 1]):
        parent = path[depth - 1]
        depth -= 1
        above = path[depth - 1] if depth > 0 else 0
        _rotate(head, nodes, above, parent, LEFT if nodes[parent]["child"][LEFT] == node else RIGHT)


@njit(cache=True)
def remove(head, nodes, x):
    """Take one `x` out; it must be in."""
    parent = 0
    node = head[ROOT]
    while nodes[node]["key"] != x or node == 0:
        if node == 0:
            raise ValueError("a spread left the window that never entered it")
        nodes[node]["total"] -= 1
        parent = node
        node = nodes[node]["child"][LEFT] if x < nodes[node]["key"] else nodes[node]["child"][RIGHT]
    nodes[node]["count"] -= 1
    nodes[node]["total"] -= 1
    if nodes[node]["count"] > 0:
        return
    while nodes[node]["child"][LEFT] != 0 and nodes[node]["child"][RIGHT] != 0:
        left, right = nodes[node]["child"][LEFT], nodes[node]["child"][RIGHT]
        parent = _rotate(head, nodes, parent, node, LEFT if _above(nodes, left, right) else RIGHT)
    child = nodes[node]["child"][LEFT] if nodes[node]["child"][LEFT] != 0 else nodes[node]["child"][RIGHT]
    _hang(head, nodes, parent, node, child)
    nodes[node]["child"][LEFT] = head[FREE]
    head[FREE] = node


@njit(cache=True, inline="always")
def smaller(head, nodes, x, tolerance):
    """The number of values v in the tree with x - v > tolerance (>= 0)."""
    found = 0
    node = head[ROOT]
    while node != 0:
        if x - nodes[node]["key"] > tolerance:
            found += nodes[nodes[node]["child"][LEFT]]["total"] + nodes[node]["count"]
            node = nodes[node]["child"][RIGHT]
        else:
            node = nodes[node]["child"][LEFT]
    return found
