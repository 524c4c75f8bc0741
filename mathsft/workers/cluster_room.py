"""Decides which workers of a cluster have no room on any node; a pure function."""

from collections.abc import Mapping, Sequence

from mathsft.worker_settings import Needs

ROUNDING = 1e-6


def without_room(nodes: Mapping[str, Needs], placed: Sequence[tuple[str, Needs]], waiting: Sequence[Needs]) -> set[int]:
    """Return the indices of the waiting workers for which no node has room beside the placed and the earlier waiting ones.

    `nodes` has what each node offers, by its id; workers on nodes that are gone need nothing.
    """
    free = {node: [offer.num_cpus, offer.num_gpus] for node, offer in nodes.items()}

    def take(node: str, needs: Needs) -> None:
        free[node][0] -= needs.num_cpus
        free[node][1] -= needs.num_gpus

    for node, needs in placed:
        if node in free:
            take(node, needs)
    without = set()
    for index, needs in enumerate(waiting):
        fitting = (
            node
            for node, (num_cpus, num_gpus) in free.items()
            if num_cpus + ROUNDING >= needs.num_cpus and num_gpus + ROUNDING >= needs.num_gpus
        )
        if (chosen := next(fitting, None)) is None:
            without.add(index)
        else:
            take(chosen, needs)
    return without
