"""Meta's originals: params.json beside consolidated.NN.pth."""
