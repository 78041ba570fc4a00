"""Stage 3: a pure choice among offers. Knows no socket and no clock."""
