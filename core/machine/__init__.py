"""What the machine has: memory, devices, and the limits of a container."""
