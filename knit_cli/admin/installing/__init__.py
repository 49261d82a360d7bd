"""Prepares a settings folder; installs, upgrades and removes what it says."""
