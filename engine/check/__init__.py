"""What must be true, one small function a check."""
