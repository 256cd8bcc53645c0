"""Curators inside other people's trainers: a framework-neutral core, and what plugs it into each of them."""
