"""What others have, read into our words: price tables, configurations, databases. Gives texts and plans, books none."""
