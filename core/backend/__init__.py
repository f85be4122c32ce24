"""What a backend is, which one is chosen, and what one that trains adds."""
