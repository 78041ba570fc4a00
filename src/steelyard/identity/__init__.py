"""Stage 1: who asks. Keys, tenants and projects; knows no money and no model."""
