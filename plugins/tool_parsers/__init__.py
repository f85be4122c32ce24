"""Formats of tool calls, offered as third parties offer theirs."""
