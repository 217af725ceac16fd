"""Volumes of any size, block by block, into a store that any number of processes may fill."""
