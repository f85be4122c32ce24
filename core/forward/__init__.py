"""One forward pass, the same for every backend: inputs, layout, trunk, head, loss."""
