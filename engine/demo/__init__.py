"""A disposable PostgreSQL with a live workload and a repository, for looking at Cellarman without risking anything."""
