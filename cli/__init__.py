"""The command line: what every command shares; the commands are plugins in ``plugins/commands/``."""
