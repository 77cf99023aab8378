"""The graph of pairs that were measured: components, degrees, and what they leave open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class PairGraph:
    """A graph whose nodes are rows of the factor and whose edges are measured pairs.

    Attributes:
      kind: ``"distances"`` or ``"entries"``: what a pair says.
      components: nodes of each connected component, the largest first; a pair of a node with itself connects nothing.
      degrees: [N] measured pairs at each node, that with itself counted once.
      bipartite: places in ``components`` of those that split in two sides without a pair within either (nor with itself) and have
        more than one node.
    """

    kind: str
    components: tuple[tuple[int, ...], ...]
    degrees: np.ndarray
    bipartite: tuple[int, ...]

    @classmethod
    def of(cls, pairs: np.ndarray, N: int, kind: str) -> PairGraph:
        """The graph of pairs [n, 2] of N nodes."""
        own = pairs[:, 0] == pairs[:, 1]
        degrees = np.bincount(pairs[~own].ravel(), minlength=N) + np.bincount(pairs[own, 0], minlength=N)
        neighbours: list[list[int]] = [[] for _ in range(N)]
        for i, j in pairs[~own].tolist():
            neighbours[i].append(j)
            neighbours[j].append(i)
        looped = set(pairs[own, 0].tolist())
        side = [-1] * N
        found: list[tuple[tuple[int, ...], bool]] = []
        for root in range(N):
            if side[root] >= 0:
                continue
            side[root], nodes, even = 0, [root], True
            for node in nodes:  # grows while it is gone through
                even &= node not in looped
                for other in neighbours[node]:
                    if side[other] < 0:
                        side[other] = 1 - side[node]
                        nodes.append(other)
                    even &= side[other] != side[node]
            found.append((tuple(sorted(nodes)), even and len(nodes) > 1))
        found.sort(key=lambda component: -len(component[0]))
        return cls(
            kind=kind,
            components=tuple(nodes for nodes, _ in found),
            degrees=degrees,
            bipartite=tuple(place for place, (_, even) in enumerate(found) if even),
        )

    @property
    def isolated(self) -> tuple[int, ...]:
        """Nodes without any pair."""
        return tuple(np.flatnonzero(self.degrees == 0).tolist())

    def loose(self, rank: int) -> tuple[int, ...]:
        """Nodes with some pairs, but fewer than ``rank``: they move freely."""
        return tuple(np.flatnonzero((self.degrees > 0) & (self.degrees < rank)).tolist())

    def mirrored(self, rank: int) -> tuple[int, ...]:
        """Nodes with just ``rank`` distances: their mirror image in the plane of the neighbours fits as well."""
        # Among rank + 1 points in all the mirror image is a rigid motion.
        if self.kind != "distances" or len(self.degrees) <= rank + 1:
            return ()
        return tuple(np.flatnonzero(self.degrees == rank).tolist())

    def turned(self, factor: np.ndarray) -> np.ndarray | None:
        """A factor [N, r] of another matrix with the same data: one group of nodes mirrored; None where all nodes are connected."""
        together = [nodes for nodes in self.components if nodes[0] not in self.isolated]
        if len(together) < 2:
            return None
        other = factor.copy()
        other[list(together[1])] *= -1
        return other

    def reasons(self, rank: int) -> tuple[str, ...]:
        """Why a matrix of this rank is not the only one that fits, in words; empty where the graph shows nothing."""
        entries = self.kind == "entries"
        what = "entry" if entries else "distance"
        found = []
        if self.isolated:
            found.append(
                f"{_nodes(self.isolated)} without any measured {what}: nothing is known of {_them(self.isolated)}"
            )
        if loose := self.loose(rank):
            found.append(
                f"{_nodes(loose)} with fewer than {rank} measured {'entries' if entries else 'distances'}: free to move at rank {rank}"
            )
        if mirrored := self.mirrored(rank):
            found.append(f"{_nodes(mirrored)} with just {rank} measured distances: the mirror image fits as well")
        together = [nodes for nodes in self.components if len(nodes) > 1 or nodes[0] not in self.isolated]
        if len(together) > 1:
            free = (
                "its own sign"
                if entries and rank == 1
                else "its own rotation"
                if entries
                else "its own place and direction"
            )
            sizes = ", ".join(str(len(nodes)) for nodes in together)
            found.append(
                f"{len(together)} groups of nodes without a measured {what} between them (sizes {sizes}): each has {free}"
            )
        if entries and rank == 1 and self.bipartite:
            nodes = self.components[self.bipartite[0]]
            found.append(
                f"the group of {_nodes(nodes)} splits in two sides with entries only between them: one side may be multiplied by t, "
                "the other by 1/t"
            )
        return tuple(found)


def _nodes(nodes: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, nodes[:8])) + (", ..." if len(nodes) > 8 else "")
    return f"node {listed}" if len(nodes) == 1 else f"{len(nodes)} nodes ({listed})"


def _them(nodes: tuple[int, ...]) -> str:
    return "it" if len(nodes) == 1 else "them"
