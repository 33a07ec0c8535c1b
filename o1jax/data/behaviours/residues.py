"""Other ways to the same residue, which chain and graph share."""

from o1jax.tasks import chain


def another_way(operator: str, left: int, right: int, modulus: int) -> str:
    """The same value by another operation: adding n is taking away m - n."""
    if operator == "*":
        return f"{right} * {left}"
    return f"{left} {'-' if operator == '+' else '+'} {-right % modulus}"


def computes(why: str, value: list[str], modulus: int) -> bool:
    """Whether `why` is an operation of two residues, with that value."""
    words = why.split()
    if len(words) != 3 or words[1] not in chain.OPERATORS or len(words[1]) != 1:
        return False
    residues = {str(r): r for r in range(modulus)}
    left, right = residues.get(words[0]), residues.get(words[2])
    if left is None or right is None:
        return False
    return value == [str(chain.apply(words[1], left, right, modulus))]
