"""What holds text to schemas and grammars, offered as third parties offer theirs."""
