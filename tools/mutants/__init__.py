"""Small seeded faults in chosen modules and in the native kernels, to see which of them the tests catch."""
