"""Measurements. ``README.md`` beside this file says how they are made and how to read them."""
