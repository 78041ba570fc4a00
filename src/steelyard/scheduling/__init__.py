"""Who may start at an engine, and when: below the stages, so that a worker and an engine's own process can use it."""
