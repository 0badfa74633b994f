"""Long work in processes of its own, told through a journal."""
