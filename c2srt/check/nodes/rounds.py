"""Who plays whom. Standard library only."""


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """Every pair of `count` players once, in rounds in which each plays at most once: count − 1 of
    them (count where that is odd). The first stays, the others go round.
    """
    seats: list[int | None] = [*range(count), *([None] if count % 2 else [])]
    found = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found
