"""How much memory a model takes, worked out by passes over arrays without contents."""
