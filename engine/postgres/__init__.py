"""PostgreSQL itself: names, numbers, files and live facts. Knows nothing of a repository."""
