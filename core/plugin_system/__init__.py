"""Plugins: hooks, their discovery, and what each offers."""
