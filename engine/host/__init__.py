"""Where a command runs: this host, or one behind SSH."""
