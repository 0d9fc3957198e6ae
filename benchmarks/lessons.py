"""Failures of a fleet of five with twelve planted families of faults, with lessons and without: counts, no timing."""

from tests.unit.protocol.lessons.fleet import lines

CALLS = 20_000


def rows() -> None:
    """Print them."""
    print(
        "\nlessons: how often what is known is run into again (at most 1 in 100), and avoided wrongly (at most 1 in 100)"
    )
    for line in lines(CALLS):
        print(line)


if __name__ == "__main__":
    rows()
