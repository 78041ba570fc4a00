"""What the books say: overview, requests, margin, usage, statements, accounts. Reads only, integers only."""
