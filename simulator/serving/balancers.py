"""Which instance takes a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from simulator.scenario.sections import Balancer
from simulator.serving.instance import Instance
from workloads.streams import stream

#: Chooses among at least one instance for a request.
Pick = Callable[[Sequence[Instance], int], Instance]

#: A balancer that follows the cache turns to the least loaded instance when the most loaded one has this many requests
#: more, and this many times as many: the defaults of SGLang's router.
IMBALANCE = 64
IMBALANCE_RATIO = 1.5


def balancer(name: Balancer, seed: int) -> Pick:
    """Return a balancer of that name; ``seed`` drives its draws."""
    if name == "round_robin":
        turns = count()
        return lambda instances, _request: instances[next(turns) % len(instances)]
    if name == "power_of_two":
        return _power_of_two(seed)
    return cache_aware if name == "cache_aware" else least_loaded


def _power_of_two(seed: int) -> Pick:
    rng = stream(seed, "scheduling")

    def pick(instances: Sequence[Instance], request: int) -> Instance:
        if len(instances) < 3:
            return least_loaded(instances, request)
        one, other = rng.choice(len(instances), 2, replace=False).tolist()
        return least_loaded((instances[one], instances[other]), request)

    return pick


def least_loaded(instances: Sequence[Instance], _request: int) -> Instance:
    """The instance with the fewest outstanding requests, the first of several."""
    return min(instances, key=lambda instance: instance.outstanding) if len(instances) > 1 else instances[0]


def cache_aware(instances: Sequence[Instance], request: int) -> Instance:
    """The instance with most of the prompt in its prefix cache, unless the load has become uneven."""
    loads = [instance.outstanding for instance in instances]
    if max(loads) - min(loads) > IMBALANCE and max(loads) > IMBALANCE_RATIO * min(loads):
        return least_loaded(instances, request)
    return max(instances, key=lambda instance: (instance.kv.cached_tokens(request), -instance.outstanding))
