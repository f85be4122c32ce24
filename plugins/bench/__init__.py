"""Speed side by side: random models of a given shape, each contender in a process of its own, measured in turns."""
