"""Convolution, normalisation and components, fast on every platform."""
