"""Other processes of this machine, by their ids. Knows none of ours by name."""

import os


def lives(pid: int) -> bool:
    """Whether there is such a process, whoever's it is; one that has ended counts until somebody has waited for it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
