"""Kernels: products with a weight of which only blocks exist. Tensors in, tensors out."""
