"""Prompts, answers, token figures and errors, as providers spell them."""
