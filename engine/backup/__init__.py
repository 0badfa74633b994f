"""Taking a backup and proving one."""
