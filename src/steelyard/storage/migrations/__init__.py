"""Schema migrations, run by `storage.database.migrate`. A script that has shipped is never edited."""
