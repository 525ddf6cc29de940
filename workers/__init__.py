"""Consume, choose a key, translate, call, settle."""
