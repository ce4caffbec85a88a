"""Data sets: images and labels on the device, or decoded from files as they are needed. training/registry.py lists them."""
