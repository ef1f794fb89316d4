"""Audits of ourselves: what the training that we run lets an attacker find out, measured."""
