"""Stages 2 and 7: hold and post. The teller, the accounts, the postings and their verification."""
