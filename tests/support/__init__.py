"""What the tests run against: a DNS server, mail sinks, a certificate authority, a whole installation in a folder.

Everything here starts real servers on free loopback ports and cleans up after itself. ``benchmarks`` may use it too;
nothing else imports it.
"""
