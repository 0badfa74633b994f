"""What an archive's gaps mean: pure rules from names, histories, backups and the server's facts to findings."""
