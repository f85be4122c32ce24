"""What polyllama ships as plugins, registered exactly as third parties register theirs."""
