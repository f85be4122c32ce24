"""What a user calls: ``Llama`` and the functions and classes around it."""
