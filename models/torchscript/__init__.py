"""Scripted copies of models with gatefuse's layers."""
