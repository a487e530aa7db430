"""Servers, clients and scripts that the outside tests start."""
