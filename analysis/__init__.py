"""Reads run folders: tables, pictures, reports. pandas and matplotlib; no torch, no DEAP."""
