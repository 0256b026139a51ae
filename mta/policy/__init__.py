"""The rules in force, apart from where they are kept: what is known of tenants, logins, keys and domains.

Pure: no I/O. ``records`` has the values, ``lookup`` the questions that intake asks of them.
"""
