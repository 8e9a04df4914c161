"""First steps with manyhands: how far from the truth is the mean of n skewed observations?"""

import random
import statistics

import manyhands as mh


@mh.delayed
def sample_mean(seed, n):
    draws = random.Random(seed)
    return statistics.fmean(draws.expovariate(1.0) for _ in range(n))


# Calling a delayed function computes nothing yet: these are 600 tasks, and 3 that wait for 200 each.
spread = mh.delayed(statistics.stdev)
studies = {n: spread([sample_mean(seed, n) for seed in range(200)]) for n in (10, 100, 1000)}

(errors,) = mh.compute(studies)  # all of them, on all cores
for n, error in errors.items():
    print(f"n = {n:4}: standard error {error:.3f}, theory {n**-0.5:.3f}")

with mh.config.set(scheduler="threads", num_workers=2):  # the same program somewhere else
    assert mh.compute(studies) == (errors,)

print(mh.map(round, [1.4, 2.6, 3.5]))  # a parallel map needs no preparation: [1, 3, 4]
