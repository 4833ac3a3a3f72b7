"""Which problems a step has, on each process: a function of seed and step alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ProblemOrder:
    """The order in which a run goes through its `count` problems, `size` of them in a step.

    Every epoch is a new permutation. The places of the order are numbered from 0 over the whole
    run; process i of n has every n-th place of a step, beginning with the i-th.
    """

    seed: int
    count: int
    size: int
    process: int = 0
    processes: int = 1

    def places(self, step: int) -> npt.NDArray[np.int64]:
        """This process's places in the step after `step` others."""
        first = step * self.size
        return np.arange(first + self.process, first + self.size, self.processes)

    def problems(self, step: int) -> list[int]:
        """Which problem is at each of those places."""
        places = self.places(step)
        orders = {
            epoch: np.random.default_rng([self.seed, epoch]).permutation(self.count)
            for epoch in {place // self.count for place in places.tolist()}
        }
        return [int(orders[place // self.count][place % self.count]) for place in places.tolist()]

    def chosen(self, step: int, share: float) -> list[bool]:
        """Which of those places belong to a `share` of all places, spread evenly over the run.

        The share is kept over steps and processes however few problems a step has: of the first k
        places floor(k · share) are chosen.
        """
        places = self.places(step)
        chosen: list[bool] = (np.floor((places + 1) * share) > np.floor(places * share)).tolist()
        return chosen
