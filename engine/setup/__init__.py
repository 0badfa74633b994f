"""What a server needs by its configuration, piece by piece, ready to paste."""
