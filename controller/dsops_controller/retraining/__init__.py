"""Asks for a model to be trained anew, when something says that it should be, and hands the request over."""
