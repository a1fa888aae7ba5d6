"""Stages on other machines: pools and the workers that serve them, GPUs and their slots, signs of life."""
