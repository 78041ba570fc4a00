"""The processes and what they are made of; everything below is put together here."""
