"""polyllama inside other projects' programs: one module for each, imported by nobody but who uses it."""
