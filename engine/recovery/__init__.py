"""Getting a moment back."""
