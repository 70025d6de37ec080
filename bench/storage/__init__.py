"""Rows in files, written and read without torch."""
