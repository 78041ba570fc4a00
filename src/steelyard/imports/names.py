"""Names of others as names of ours: what may not stand in one becomes a hyphen."""

from steelyard.kernel import limits


def fitting(text: object, otherwise: str) -> str:
    """The name of a tenant or key that `text` comes nearest to; `otherwise` when nothing of it is left."""
    kept = "".join(one if one.isalnum() or one in " ._-@+" else "-" for one in str(text or ""))
    for _ in range(2):  # what is cut may leave a blank at the end
        kept = kept.lstrip(" .-@+").rstrip(" @")[: limits.NAME_CHARACTERS_MAX]
    return kept or otherwise
