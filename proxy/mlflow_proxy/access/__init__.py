"""Whose answer is whose: the rules that keep one client's cached answers from another."""
