"""Built-in commands of the command line, one file each, named as they are typed.

What they share is in ``cli/``.
"""
