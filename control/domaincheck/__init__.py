"""Looking at the DNS of sender domains: what is published, what should be, and what to change.

``lookup`` asks the nameservers, ``spf`` evaluates SPF records, ``checker`` checks a whole domain. Nothing here touches
the database.
"""
