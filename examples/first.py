"""A first script: start `swarm node` in another terminal, then run this."""

import swarm


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


with swarm.connect() as fleet:
    print(sum(fleet.map(is_prime, range(10_000))), "primes below 10,000")
