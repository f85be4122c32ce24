"""Where models come from: names of the registry, local folders, the Hub."""
