"""Unattended runs on a GPU: jobs in order, within a budget."""
