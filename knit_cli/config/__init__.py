"""Configuration of users and projects: profiles and `knitenv`."""
