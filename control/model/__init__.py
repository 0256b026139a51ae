"""The rules: names, fields, addresses, keys, credits. Pure: no I/O, no clock, no protos.

What is wrong with input is a ``Refusal`` that names the field and how to mend it.
"""
