"""Out by SMTP: connections per site, and what replies mean.

``agent`` takes jobs and files them under their site; ``site`` keeps the site's ready queue and connections and moves
jobs between them; ``connection`` pumps bytes between a socket and ``mta.smtp.client``; ``dial`` makes connections;
``classify`` is the failure policy.
"""
