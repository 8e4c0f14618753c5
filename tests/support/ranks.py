"""What ranks are, by sorting."""


def naive_rank(scores, target: int, seen: set[int]) -> int:
    """Sort the items that take part: by score, then by id; count to the target."""
    items = [item for item in range(1, len(scores)) if item == target or item not in seen]
    return sorted(items, key=lambda item: (-scores[item], item)).index(target) + 1
