"""Tables, transactions and migrations behind SQLAlchemy Core. No rules of money here."""
