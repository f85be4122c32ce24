"""The frameworks a graph can run on, one folder each."""
