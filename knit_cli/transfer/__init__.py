"""Transfers of the content of Data and the logs of Runs."""
