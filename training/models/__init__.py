"""Backbones, and the two heads on them (patch_model.py). training/registry.py lists the backbones."""
