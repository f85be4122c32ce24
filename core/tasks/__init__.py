"""Task heads: what a head is, its losses, outputs, and how a person reads them."""
