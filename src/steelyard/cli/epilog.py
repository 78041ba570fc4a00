"""The closing part of a help text: lines to copy. Apart: `--help` must not wait for a database import."""


def examples(*lines: str) -> str:
    """The examples under a command's options."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
