"""Built-in task heads, one file each."""
